"""The stream `caption`: a text that says what an image is to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from factory.data.streams.class_name import ClassName


@dataclass(frozen=True, slots=True)
class Caption(ClassName):
    """A caption: recorded, shown and restored as a class is, as both are one text.

    `attributes` are what a grid says by it, (attribute, value) each, and `writer` what reworded
    it, as plain data: notes, and no part of it.
    """

    name = "caption"
    attributes: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    writer: Mapping[str, Any] | None = field(default=None, compare=False)

    def record(self) -> dict[str, Any]:
        """Returns what reworded it, where something did."""
        return {} if self.writer is None else {"writer": dict(self.writer)}

    def list_attributes(self) -> Mapping[str, str]:
        """Returns attribute -> value, where a grid wrote it."""
        return dict(self.attributes)
