"""The stream `class_name`: the class that an image is to show, and its label."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from factory.data.streams.base import Stream
from factory.data.streams.cells import Cells, read_word


@dataclass(frozen=True, slots=True)
class ClassName(Stream):
    """A class by its name."""

    name = "class_name"
    Cells = Cells
    text: str

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the text of a cell; a number is taken as text.

        Raises:
            InputError: it is empty, or neither.
        """
        return cls(read_word(row[cells.column]))

    def identity(self) -> str:
        """Returns the name."""
        return self.text

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns the name."""
        return {cls.name: identity}
