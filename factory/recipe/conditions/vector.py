"""Vector conditions: images of named values, such as pathway scores; a row of a table each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.data.streams import Vector
from factory.data.streams.vector import Missing, VectorCells
from factory.recipe.conditions.table import TableKind, TableSettings, list_columns_beside


class VectorConditions(TableKind):
    """Images of named values, such as pathway scores of an RNA profile."""

    streams = (Vector,)
    source = "vectors"

    class Settings(TableSettings):
        """Images of named values, such as pathway scores of an RNA profile: a table's rows."""

        kind: Literal["vector"]
        vectors: Path = Field(
            description="csv, tsv, jsonl, parquet or datasets folder; a column is a named value"
        )
        names: tuple[str, ...] | None = Field(
            None, min_length=1, description="columns that are values; default: all others"
        )
        ignore: tuple[str, ...] = Field((), description="columns that are none, e.g. ids of spots")
        missing: Missing = "refuse"

    settings: Settings

    def choose_cells(self, header: Sequence[str]) -> VectorCells:
        """Returns the columns that are values: those named, else all that are nothing else.

        Raises:
            InputError: none are left.
        """
        settings = self.settings
        others = {*list_columns_beside(settings), *settings.ignore}
        unknown = [name for name in settings.ignore if name not in header]
        if unknown:
            raise InputError(f"ignore: no column {unknown[0]!r}: {advise(unknown[0], header)}")
        names = settings.names or tuple(name for name in header if name not in others)
        if not names:
            raise InputError("no column is left for values: name fewer in ignore")
        return VectorCells(names=names, missing=settings.missing)
