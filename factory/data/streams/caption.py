"""The stream `caption`: a text that says what an image is to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from factory.data.streams.class_name import ClassName


@dataclass(frozen=True, slots=True)
class Caption(ClassName):
    """A caption: recorded, shown and restored as a class is, as both are one text.

    `attributes` are what a grid says by it, (attribute, value) each: a note, and no part of it.
    """

    name = "caption"
    attributes: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def list_attributes(self) -> Mapping[str, str]:
        """Returns attribute -> value, where a grid wrote it."""
        return dict(self.attributes)
