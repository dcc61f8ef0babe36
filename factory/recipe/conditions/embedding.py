"""Embedding conditions: images of arrays of an encoder, a row of a table each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.data.rows import ARRAY
from factory.data.streams import Embedding
from factory.data.streams.embedding import EmbeddingCells
from factory.recipe.conditions.table import TableKind, TableSettings, list_columns_beside


class EmbeddingConditions(TableKind):
    """Images of embeddings: what an encoder made of real patches."""

    kind = "embedding"
    streams = (Embedding,)
    source = "embeddings"

    class Settings(TableSettings):
        """Images of embeddings: what an encoder made of real patches."""

        kind: Literal["embedding"]
        embeddings: Path = Field(
            description="parquet, npy, safetensors, jsonl or datasets folder with the arrays"
        )
        column: str | None = Field(
            None, description="of the arrays; default: `embedding`, or the only one"
        )
        encoder: str = Field(min_length=1, description="catalog id or Hub id of what made them")
        revision: str | None = Field(None, description="of the encoder")

    settings: Settings

    def choose_cells(self, header: Sequence[str]) -> EmbeddingCells:
        """Returns the column of the arrays.

        Raises:
            InputError: there is none, or no telling which.
        """
        settings = self.settings
        others = list_columns_beside(settings)
        left = [name for name in header if name not in others]
        column = settings.column or (ARRAY if ARRAY in left or len(left) != 1 else left[0])
        if column not in header:
            message = f"no column {column!r}: name it with column"
            raise InputError(f"{message}: {advise(column, tuple(left))}")
        return EmbeddingCells(column=column, encoder=settings.encoder, revision=settings.revision)
