"""The stream `scale`: how many µm of tissue a pixel is to show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from factory.core.errors import InputError
from factory.data.streams.base import Stream
from factory.data.streams.cells import Cells, read_number

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST, _MOST = 0.01, 100.0  # µm per pixel: beyond what any scanner or overview shows
_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Scale(Stream):
    """µm per pixel, kept to 4 decimals, so that an equal scale has one identity.

    Raises:
        InputError: no number, or none that a micrograph can have.
    """

    name = "scale"
    Cells = Cells
    mpp: float

    def __post_init__(self) -> None:
        is_sane = math.isfinite(self.mpp) and _LEAST <= self.mpp <= _MOST
        if not is_sane:
            raise InputError(
                f"scale: must be {_LEAST} to {_MOST} µm per pixel, got {self.mpp}: "
                "20x is about 0.5, 40x about 0.25"
            )
        object.__setattr__(self, "mpp", round(float(self.mpp), _DECIMALS))

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the scale of a cell.

        Raises:
            InputError: no number, or none that a micrograph can have.
        """
        return cls(read_number(row[cells.column]))

    def identity(self) -> float:
        """Returns µm per pixel."""
        return self.mpp

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns its column."""
        import pyarrow as pa

        return {"asked_mpp": pa.float64()}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns µm per pixel."""
        return {"asked_mpp": float(identity)}
