"""The stream `caption`: a text that says what an image is to show."""

from dataclasses import dataclass, field
from typing import Any

from factory.data.streams.class_name import ClassName


@dataclass(frozen=True, slots=True)
class Caption(ClassName):
    """A caption: recorded, shown and restored as a class is, as both are one text.

    `attributes` are what a grid says by it, (attribute, value) each: a note, and no part of it.
    """

    name = "caption"
    attributes: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def record(self) -> dict[str, Any]:
        """Returns attribute -> value, where a grid wrote it."""
        return {"attributes": dict(self.attributes)} if self.attributes else {}
