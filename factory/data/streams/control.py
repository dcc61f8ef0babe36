"""The stream `control`: a mask that says where an image shows what; nuclei, glands, tissue."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from factory.catalog.entries import ClassName, ModelEntry
from factory.core.errors import DamageError, InputError, SourceError
from factory.core.hashing import hash_bytes, to_canonical_json
from factory.core.late import NDArray, np
from factory.data.images import SourceImage
from factory.data.label_maps import (
    MOST_ID,
    Labels,
    MapSource,
    Palette,
    code_instances,
    decode_labels,
    encode_labels,
    fit_labels,
    hash_labels,
    list_ids,
    list_unknown,
    paint_labels,
    tell_small,
    translate_labels,
    turn_labels,
)
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.cells import Cells, read_word

if TYPE_CHECKING:
    import pyarrow as pa


def _check_names(palette: dict[int, str]) -> dict[int, str]:
    if len(set(palette.values())) < len(palette):
        raise ValueError("a name stands twice: give each id a name of its own")
    return palette


PaletteNames = Annotated[
    dict[Annotated[int, Field(ge=1, le=MOST_ID)], ClassName],
    Field(min_length=1),
    AfterValidator(_check_names),
]
"""Id -> name, as recipes say it; 0 is nothing."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """The map of a file; `sha256` is that of its values, `turn` one of eight flips and turns.

    `objects_of` is the id of all objects of a map that numbers these 1 .. n.
    """

    image: SourceImage
    sha256: str
    fit: str = "crop"
    turn: int = 0
    objects_of: int | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the hash of its values, and how it is fitted and turned."""
        described = {"sha256": self.sha256, "fit": self.fit}
        return {**described, "turn": self.turn} if self.turn else described

    def read(self, width: int, height: int) -> Labels:
        """Returns the (height, width) map.

        Raises:
            SourceError: it cannot be read, changed since it was planned, or is too small.
        """
        labels = decode_labels(self.image.read_bytes(), self.image.place)
        if hash_labels(labels) != self.sha256:
            raise SourceError(f"{self.image.place}: changed since the run was planned: start anew")
        turned, place = turn_labels(labels, self.turn), self.image.place
        fitted = fit_labels(turned, width, height, self.fit, place)
        if self.objects_of is None:
            return fitted
        return code_instances(fitted, self.objects_of, place)


@dataclass(frozen=True, slots=True)
class KeptMask:
    """The map that a row kept: encoded, of the size of its image."""

    data: bytes
    described: str

    def describe(self) -> dict[str, Any]:
        """Returns what the row recorded of it."""
        found: dict[str, Any] = json.loads(self.described)
        return found

    def read(self, width: int, height: int) -> Labels:
        """Returns the (height, width) map.

        Raises:
            SourceError: it cannot be read.
        """
        labels = decode_labels(self.data, "mask")
        return fit_labels(labels, width, height, "resize", "mask")


@functools.lru_cache(maxsize=32)
def _read_source(source: MapSource, width: int, height: int) -> Labels:
    """Reads or draws a map once for all tries of an image, its filters and its row."""
    labels = source.read(width, height)
    labels.setflags(write=False)
    return labels


class ControlCells(Cells):
    """The path of a label map in a column, below the folder of the table."""

    palette: PaletteNames = Field(description="value of the mask -> its name")
    fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")

    @property
    def marks(self) -> tuple[str, ...]:
        """The names of the palette."""
        return tuple(self.palette.values())


@dataclass(frozen=True, slots=True)
class Control(Stream):
    """A mask with its palette, (id, name) sorted by id; 0 is nothing.

    Where `has_instances`, the source's values are id * 1000 + n, and tell objects apart.
    `group_sha256` is the hash of the patient or slide that it was drawn on.
    """

    name = "control"
    Cells = ControlCells
    source: MapSource
    palette: Palette
    has_instances: bool = False
    group_sha256: str | None = None

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the mask whose file a cell names.

        Raises:
            InputError: it lies elsewhere, is no label map, or has ids that are not named.
        """
        name, root = read_word(row[cells.column]), Path(os.path.normpath(folder))
        path = Path(os.path.normpath(root / name))
        if root not in path.parents:
            raise InputError(f"names the mask {name!r}, which is not below {folder}: put it there")
        image = SourceImage(name, None, None, path)
        labels = decode_labels(image.read_bytes(), image.place)
        palette = tuple(sorted(cells.palette.items()))
        unknown = list_unknown(labels, palette)
        if unknown:
            raise InputError(f"{name}: has the id {unknown[0]}, which the palette does not name")
        return cls(MaskFile(image, hash_labels(labels), cells.fit), palette)

    @classmethod
    def make_example(cls, entry: ModelEntry) -> Self:
        """Returns a mask with a square of each name that the entry says, else of nuclei."""
        known = {"nucleus": 1} if entry.control is None else entry.control.palette
        labels = np.zeros((64, 64), np.uint8)
        for place, identifier in enumerate(known.values()):
            start = 4 * (place % 8)
            labels[start : start + 32, start : start + 32] = identifier
        described = {"sha256": hash_labels(labels), "fit": "resize"}
        source = KeptMask(encode_labels(labels), to_canonical_json(described))
        return cls(source, tuple(sorted((value, name) for name, value in known.items())))

    def identity(self) -> dict[str, Any]:
        """Returns what its source tells, and the palette."""
        identity = {**self.source.describe(), "palette": {str(k): v for k, v in self.palette}}
        return {**identity, "instances": True} if self.has_instances else identity

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns the (height, width) uint8 map of the palette's ids, 0 where nothing is.

        Raises:
            SourceError: the mask cannot be read, is too small, or has an id that the palette lacks.
        """
        labels = self._read(width, height)
        return (list_ids(labels) if self.has_instances else labels).astype(np.uint8)

    def find_unfit(self, width: int, height: int) -> str | None:
        """Says that a file is too small to be cut; raises SourceError for one not readable."""
        source = self.source
        if not isinstance(source, MaskFile) or source.fit != "crop":
            return None
        rows, columns = decode_labels(source.image.read_bytes(), source.image.place).shape
        small = tell_small((columns, rows), (width, height))
        return None if small is None else f"its mask has {small}"

    def load_as(self, wanted: Mapping[str, int], width: int, height: int) -> NDArray[np.uint8]:
        """Returns the map with the ids that a model's own palette (name -> id) gives the names.

        Raises:
            SourceError: as `load`, or a name that the model's palette lacks.
        """
        return translate_labels(self.load(width, height), self.palette, wanted)

    def load_instances(self, width: int, height: int) -> NDArray[np.uint16] | None:
        """Returns the (height, width) uint16 map of objects, id * 1000 + n; None without any.

        Raises:
            SourceError: as `load`.
        """
        if not self.has_instances:
            return None
        return self._read(width, height).astype(np.uint16)

    def _read(self, width: int, height: int) -> Labels:
        """Returns the values of the source, all of them of the palette.

        Raises:
            SourceError: as `load`.
        """
        labels = _read_source(self.source, width, height)
        ids = list_ids(labels) if self.has_instances else labels
        unknown = list_unknown(ids, self.palette)
        if unknown:
            known = ", ".join(f"{identifier}: {name}" for identifier, name in self.palette)
            raise SourceError(f"mask: has the id {unknown[0]}, but its palette only {{{known}}}")
        return labels

    def draw(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns the mask in colours, (height, width, 3) uint8 RGB; raises as `load`."""
        ids = [identifier for identifier, _ in self.palette]
        return paint_labels(self.load(width, height), ids)

    @classmethod
    def draw_row(cls, identity: Any, row: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Returns the mask of a row in colours; raises as `load` and `restore`."""
        mask = cls.restore(identity, {}, row)
        rows, columns = decode_labels(row["mask"]["bytes"], "mask").shape
        return mask.draw(columns, rows)

    def find_misfit(self, entry: ModelEntry) -> str | None:
        """Says which name of the palette a model was not taught."""
        known = () if entry.control is None else tuple(entry.control.palette)
        others = [name for _, name in self.palette if known and name not in known]
        if not others:
            return None
        return f"{entry.id} was taught no {others[0]!r}: it knows {', '.join(known)}"

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the mask that a row kept.

        Raises:
            DamageError: it holds none.
        """
        data = (row.get("mask") or {}).get("bytes")
        if data is None:
            raise DamageError("mask: the row does not hold the mask that it was made from")
        described = {k: v for k, v in identity.items() if k not in ("palette", "instances")}
        source = KeptMask(data, to_canonical_json(described))
        palette = sorted((int(key), name) for key, name in identity["palette"].items())
        return cls(source, tuple(palette), identity.get("instances", False))

    @classmethod
    def fields(cls) -> Mapping[str, pa.DataType]:
        """Returns the column of the mask."""
        from factory.data.columns import IMAGE_TYPE

        return {"mask": IMAGE_TYPE}

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns the mask as a PNG of the image's size: ids, or objects where it has them.

        Raises:
            SourceError: as `load`.
        """
        labels = self._read(width, height)
        data = encode_labels(labels.astype(np.uint16 if self.has_instances else np.uint8))
        return {"mask": {"bytes": data, "path": f"{hash_bytes(data)[:32]}.png"}}

    def record(self) -> dict[str, Any]:
        """Returns the hash of the patient or slide, where it is known."""
        return {} if self.group_sha256 is None else {"control_group_sha256": self.group_sha256}

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of the patient or slide."""
        return () if self.group_sha256 is None else (self.group_sha256,)
