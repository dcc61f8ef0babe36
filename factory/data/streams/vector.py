"""The stream `vector`: named values, such as pathway scores of an RNA profile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from factory.catalog.entries import ModelEntry, Strict
from factory.core.errors import InputError
from factory.core.late import NDArray, np
from factory.core.yaml.messages import advise
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.cells import read_number

if TYPE_CHECKING:
    import pyarrow as pa

Missing = Annotated[
    Literal["refuse", "zero"],
    Field(
        description="what an empty cell or NaN does; zero: it stands as 0, the mean of a z-score, "
        "and the row's provenance names it"
    ),
]
DECIMALS = 6
"""Values are rounded before they enter ids, so that last bits of another machine change none."""


class VectorCells(Strict):
    """Values in columns of their own."""

    names: tuple[str, ...] = Field(min_length=1, description="columns, each a value of that name")
    missing: Missing = "refuse"

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that are read."""
        return self.names


@dataclass(frozen=True, slots=True)
class Vector(Stream):
    """Named values, sorted by name, each of DECIMALS decimals; `Vector.of` makes one.

    `missing` names those that were not known and stand as 0, and `group_sha256` is the hash of the
    patient or slide that they were measured in.
    """

    name = "vector"
    Cells = VectorCells
    values: tuple[tuple[str, float], ...]
    missing: tuple[str, ...] = ()
    group_sha256: str | None = None

    @classmethod
    def of(
        cls,
        values: Mapping[str, float],
        missing: Iterable[str] = (),
        group_sha256: str | None = None,
    ) -> Self:
        """Returns the stream of name -> value.

        Raises:
            InputError: no values, or one that is not finite.
        """
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad or not values:
            raise InputError(f"NaN or infinite: {', '.join(bad)}" if bad else "no values")
        # `+ 0.0` makes of -0.0 what equals it.
        rounded = ((name, round(float(value), DECIMALS) + 0.0) for name, value in values.items())
        return cls(tuple(sorted(rounded)), tuple(sorted(missing)), group_sha256)

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the values of a row's columns.

        Raises:
            InputError: no number, or one that is missing or not finite where that is refused.
        """
        values: dict[str, float] = {}
        missing = []
        for name in cells.names:
            try:
                values[name] = read_number(row[name])
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            if math.isnan(values[name]):
                if cells.missing == "refuse":
                    raise InputError(f"{name}: missing or NaN: give it, or set missing: zero")
                values[name] = 0.0
                missing.append(name)
        return cls.of(values, missing)

    @classmethod
    def make_example(cls, entry: ModelEntry) -> Self | None:
        """Returns 0, the mean of a z-score, for every name that the entry says."""
        wanted = entry.vector
        return None if wanted is None else cls.of(dict.fromkeys(wanted.names, 0.0))

    def change(self, name: str, value: str | float) -> Self:
        """Returns it with another value of a name that it has.

        Raises:
            InputError: no number, or none that is finite.
        """
        return self.of(
            {**dict(self.values), name: read_number(value)},
            (each for each in self.missing if each != name),
            self.group_sha256,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted: whatever the order of a file's columns."""
        return tuple(name for name, _ in self.values)

    def identity(self) -> dict[str, float]:
        """Returns name -> value."""
        return dict(self.values)

    def load(self, width: int, height: int) -> NDArray[np.float32]:
        """Returns the values, (n,) float32, in the order of `names`."""
        return self.take(self.names)

    def take(self, names: Iterable[str]) -> NDArray[np.float32]:
        """Returns (n,) float32 in the order of a model's own names.

        Raises:
            KeyError: a name that it lacks.
        """
        values = dict(self.values)
        return np.array([values[name] for name in names], np.float32)

    def find_misfit(self, entry: ModelEntry) -> str | None:
        """Says which values a model does not know, or lacks; their order is free."""
        wanted = entry.vector
        if wanted is None:
            return None
        extra = [name for name in self.names if name not in wanted.names]
        lacking = [name for name in wanted.names if name not in self.names]
        if extra:
            near = advise(extra[0], wanted.names)
            return f"{entry.id} knows no value {extra[0]!r}{_count(extra)}: {near}"
        if lacking:
            return f"{entry.id} needs the value {lacking[0]!r}{_count(lacking)}: give it"
        return None

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the values of a row."""
        return cls.of(identity)

    @classmethod
    def fields(cls) -> Mapping[str, pa.DataType]:
        """Returns the columns of values and names."""
        import pyarrow as pa

        numbers = pa.list_(pa.field("element", pa.float64()))  # the name that parquet gives items
        names = pa.list_(pa.field("element", pa.string()))
        return {"vector": numbers, "vector_names": names}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns values and names, in the order of the names."""
        names = sorted(identity)
        return {"vector": [float(identity[name]) for name in names], "vector_names": names}

    def record(self) -> dict[str, Any]:
        """Returns which values were not known, and the hash of the patient or slide."""
        missing = {"vector_missing": list(self.missing)} if self.missing else {}
        return {**missing, "vector_group_sha256": self.group_sha256}

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of the patient or slide."""
        return () if self.group_sha256 is None else (self.group_sha256,)


def _count(names: list[str]) -> str:
    return f" and {len(names) - 1} others" if len(names) > 1 else ""
