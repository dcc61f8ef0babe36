"""An image with the objects of its mask, as every format of annotations takes it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import DamageError
from factory.core.images import read_size
from factory.data.label_maps import Labels, Palette, decode_labels
from factory.data.objects import Objects, find_objects
from factory.data.provenance import Provenance, read_provenance
from factory.data.streams.control import Control
from factory.engine.dataset import DATA, Dataset


@dataclass(frozen=True)
class Marked:
    """One image and its mask.

    Attributes:
        split: of the data set.
        sample_id: its sample id.
        file_name: sample id and the suffix of its format.
        data: the encoded image, as the row has it.
        labels: (H, W) ids of the palette, or id * 1000 + n where `has_instances`.
        palette: (id, name), sorted by id.
        has_instances: whether the mask tells objects apart.
        mpp: µm per pixel, where it is known.
    """

    split: str
    sample_id: str
    file_name: str
    data: bytes
    labels: Labels
    palette: Palette
    has_instances: bool
    mpp: float | None

    @cached_property
    def objects(self) -> Objects:
        """Its objects, single pixels too: nothing of the mask is dropped."""
        return find_objects(self.labels, self.has_instances, least=1)

    @property
    def names(self) -> list[str]:
        """The name of each object, in their order."""
        named = dict(self.palette)
        return [named[identifier] for identifier in self.objects.ids.tolist()]

    def count(self) -> list[tuple[str, int, int]]:
        """Returns (name, objects, px) of each name of the palette."""
        counts, areas = Counter(self.names), Counter[str]()
        for name, area in zip(self.names, self.objects.areas.tolist(), strict=True):
            areas[name] += int(area)
        return [(name, counts[name], areas[name]) for _, name in self.palette]


@dataclass
class Writer(ABC):
    """A format: takes images one by one.

    Args:
        folder: to write into.
        names: of all palettes, sorted.
        files: closes what is left open.
    """

    folder: Path
    names: tuple[str, ...]
    files: ExitStack

    @abstractmethod
    def place(self, marked: Marked) -> str:
        """Returns where an image goes, below the folder."""

    @abstractmethod
    def add(self, marked: Marked) -> None:
        """Writes what the mask of an image shows; the image is there already."""

    def finish(self) -> None:
        """Writes what stands for all images, after the last one."""
        return


def list_names(dataset: Dataset) -> tuple[str, ...]:
    """Returns the names that palettes of the rows have, sorted: equal in all splits and formats.

    Raises:
        StoreError: a damaged file.
    """
    names: set[str] = set()
    for table in dataset.list_tables(DATA):
        if not {"mask", "provenance"} <= set(dataset.read_schema(table).names):
            continue
        for row in dataset.iterate_rows(table, ["sample_id", "provenance"]):
            if row.values.get("provenance"):
                control = read_provenance(row.values).condition.get("control") or {}
                names |= set(control.get("palette", {}).values())
    return tuple(sorted(names))


def read_marked(split: str, row: Mapping[str, Any]) -> Marked:
    """Reads the mask of a row.

    Raises:
        SourceError: it cannot be read, or has an id that its palette does not name.
        DamageError: its size is not that of the image, or nothing tells its palette.
    """
    record = read_provenance(row)
    sample_id, image = str(row["sample_id"]), row["image"]
    if "control" not in record.condition:
        raise DamageError(f"{sample_id}: has a mask, but its provenance tells no palette of it")
    mask = Control.restore(record.condition["control"], {}, row)
    height, width = decode_labels(row["mask"]["bytes"], f"{sample_id}: mask").shape
    size = read_size(image["bytes"], sample_id)
    if size != (width, height):
        raise DamageError(f"{sample_id}: its mask has {width} x {height} px, the image {size}")
    coded = mask.load_instances(width, height)
    return Marked(
        split=split,
        sample_id=sample_id,
        file_name=f"{sample_id}{Path(image['path']).suffix}",
        data=image["bytes"],
        labels=np.asarray(mask.load(width, height) if coded is None else coded),
        palette=mask.palette,
        has_instances=mask.has_instances,
        mpp=read_mpp(row, record),
    )


def read_mpp(row: Mapping[str, Any], record: Provenance) -> float | None:
    """Returns µm per pixel: as asked, else those of the generator; None where neither is known."""
    found = row.get("asked_mpp") or record.generator.mpp
    return None if found is None else float(found)
