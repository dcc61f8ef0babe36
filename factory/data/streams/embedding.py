"""The stream `embedding`: tokens of an encoder, which a model is conditioned on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from factory.catalog.entries import ModelEntry
from factory.core.errors import DamageError, InputError
from factory.core.hashing import hash_bytes
from factory.core.late import ArrayLike, NDArray, np
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.cells import Cells
from factory.data.streams.prototype import ATTRIBUTE, Prototype
from factory.data.varied import Labelled, list_groups, record_shots

if TYPE_CHECKING:
    import pyarrow as pa


class EmbeddingCells(Cells):
    """An array in a column: a list of numbers, or of as many lists as there are tokens."""

    encoder: str = Field(min_length=1, description="catalog id or Hub id of what made it")
    revision: str | None = Field(None, description="of the encoder")


@dataclass(frozen=True, slots=True)
class Embedding(Stream):
    """An array of an encoder, known by its hash; `Embedding.of` makes one.

    `array` is (tokens, dim) float32, `encoder` the id of what made it, at `revision`,
    `group_sha256` the hash of the patient or slide that it was made of, and `prototype` what that
    image stands for, if it was chosen for that. `shots` are the images that it lies between.
    """

    name = "embedding"
    Cells = EmbeddingCells
    sha256: str
    encoder: str
    revision: str | None
    array: NDArray[np.float32] = field(compare=False, repr=False)
    group_sha256: str | None = None
    prototype: Prototype | None = field(default=None, compare=False)
    shots: tuple[Labelled, ...] = field(default=(), compare=False)

    @classmethod
    def of(
        cls,
        array: ArrayLike,
        encoder: str,
        revision: str | None = None,
        group_sha256: str | None = None,
    ) -> Self:
        """Returns the stream of an array, (tokens, dim) or, of a single token, (dim,).

        Raises:
            InputError: another shape, or a value that is not finite.
        """
        with np.errstate(over="ignore"):  # what is too large is told below
            found = np.asarray(array, "<f4")
        found = np.ascontiguousarray(found[None] if found.ndim == 1 else found)
        if found.ndim != 2 or not found.size:
            raise InputError(f"want (tokens, dim) or (dim,) numbers, got {np.shape(array)}")
        bad = int(np.count_nonzero(~np.isfinite(found)))
        if bad:
            raise InputError(f"{bad} of {found.size} values are NaN or infinite")
        return cls(_hash(found), encoder, revision, found, group_sha256)

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the array of a cell.

        Raises:
            InputError: no finite numbers of one shape.
        """
        value = row[cells.column]
        if value is None or isinstance(value, str | bytes):
            raise InputError(f"want a list of numbers, got {type(value).__name__}")
        try:
            return cls.of(value, cells.encoder, cells.revision)
        except (TypeError, ValueError) as error:
            raise InputError(f"want lists of numbers of one length ({error})") from error

    @classmethod
    def make_example(cls, entry: ModelEntry) -> Self | None:
        """Returns normal noise of the shape that the entry says."""
        wanted = entry.embedding
        if wanted is None:
            return None
        drawn = np.random.default_rng(0).normal(size=(wanted.tokens, wanted.dim))
        return cls.of(drawn, wanted.encoder)

    def identity(self) -> dict[str, Any]:
        """Returns the hash of the array, and what made it."""
        made_by = {"encoder": self.encoder}
        if self.revision is not None:
            made_by["revision"] = self.revision
        return {"sha256": self.sha256, **made_by}

    def load(self, width: int, height: int) -> NDArray[np.float32]:
        """Returns the array, (tokens, dim) float32."""
        return self.array

    def find_misfit(self, entry: ModelEntry) -> str | None:
        """Says that a model was conditioned on another encoder, width or number of tokens."""
        wanted = entry.embedding
        if wanted is None:
            return None
        parts = (part.source for part in entry.components if part.role == "image_encoder")
        known = {_name_weights(name) for name in (wanted.encoder, *parts)}
        if _name_weights(self.encoder) not in known:
            return f"{entry.id} takes embeddings of {wanted.encoder}, got {self.encoder}"
        if self.array.shape != (wanted.tokens, wanted.dim):
            size = f"{wanted.tokens} x {wanted.dim}"
            got = " x ".join(map(str, self.array.shape))
            return f"{entry.id} takes {size} (tokens x dim), got {got}"
        return None

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the embedding of a row, from its column `embedding`.

        Raises:
            DamageError: the row does not hold the array that it was made of.
        """
        kept, wanted = row.get("embedding"), identity["sha256"]
        if kept is None:
            raise DamageError("embedding: the row has no array")
        try:
            found = cls.of(kept, identity["encoder"], identity.get("revision"))
        except (InputError, ValueError) as error:
            raise DamageError(f"embedding: no array of numbers ({error})") from error
        if found.sha256 != wanted:
            raise DamageError(f"embedding: the array has sha256 {found.sha256}, not {wanted}")
        return found

    @classmethod
    def fields(cls) -> Mapping[str, pa.DataType]:
        """Returns the columns of array, hash and encoder."""
        import pyarrow as pa

        token = pa.list_(pa.field("element", pa.float32()))  # the name that parquet gives items
        tokens = pa.list_(pa.field("element", token))
        text = ("embedding_sha256", "embedding_encoder")
        return {"embedding": tokens, **dict.fromkeys(text, pa.string())}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns the hash of the array, and the encoder with its revision."""
        revision = identity.get("revision")
        named = identity["encoder"] + (f"@{revision}" if revision is not None else "")
        return {"embedding_sha256": identity["sha256"], "embedding_encoder": named}

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns the array: the row is made again from it alone."""
        return {"embedding": self.array.tolist()}

    def record(self) -> dict[str, Any]:
        """Returns the hash of the patient or slide, and the prototype that it is."""
        told = {} if self.prototype is None else self.prototype.record()
        return {"embedding_group_sha256": self.group_sha256, **told, **record_shots(self.shots)}

    def list_attributes(self) -> Mapping[str, str]:
        """Returns the id of the prototype that it is."""
        return {} if self.prototype is None else {ATTRIBUTE: self.prototype.id}

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of the patient or slide, and of those that it lies between."""
        own = () if self.group_sha256 is None else (self.group_sha256,)
        return tuple(dict.fromkeys((*own, *list_groups(self.shots))))


def _name_weights(encoder: str) -> str:
    """Returns the id in a spec: `uni2-h`, or `owner/name` of `timm:hf-hub:OWNER/NAME@REVISION`."""
    return encoder.rpartition(":")[2].partition("@")[0].lower()


def _hash(array: NDArray[np.float32]) -> str:
    """Returns the sha256 of shape, dtype and bytes of a contiguous little-endian array."""
    head = json.dumps([list(array.shape), "float32"])
    return hash_bytes(head.encode() + b"\n" + array.tobytes())
