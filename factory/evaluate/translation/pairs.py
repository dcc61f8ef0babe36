"""Pairs of predicted and real images: files of one name, or rows of a run and files."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from factory.core.errors import DamageError, InputError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image
from factory.core.text_rows import read_table
from factory.data.channel_files import list_values, name_key, read_values
from factory.data.channels import COLUMN, Values
from factory.data.images import list_images
from factory.data.images.image import match_group
from factory.engine.dataset import Dataset

RGB = ("red", "green", "blue")
LEAST = 3
"""Pairs, and labels of a channel, under which nothing is measured."""
Read = Callable[[], Values]


@dataclass(frozen=True, slots=True)
class Place:
    """What a table says of the place of a pair."""

    patient: str | None = None
    slide: str | None = None
    labels: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """One side: key -> what reads its (C, H, W), the names of the channels, and its files.

    `passed_over` counts rows of a run that are no side of a pair, by why.
    """

    items: Mapping[str, Read]
    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)


def list_side(root: Path, sources: Path | None = None) -> Side:
    """Lists a folder of files, or the accepted rows of a run that translated `sources`.

    Raises:
        InputError: no such folder, nothing in it, or a run without `sources`.
    """
    dataset = Dataset(str(root)) if root.is_dir() else None
    if dataset is not None and dataset.list_tables("data"):
        return _list_run(dataset, sources)
    files = list_values(root)
    items = {key: partial(read_values, path) for key, path in files.items()}
    return Side(items, (), tuple(files.values()))


def _list_run(dataset: Dataset, sources: Path | None) -> Side:
    if sources is None:
        raise InputError(
            f"{dataset.url}: is a run: name the images that it translated with --sources, by whose "
            "hash its rows are known"
        )
    keys: dict[str, str] = {}
    for image in list_images(sources):
        keys.setdefault(hash_bytes(image.read_bytes()), name_key(Path(image.key)))
    items: dict[str, Read] = {}
    passed = {"of a run from none of the sources": 0, "of a source after its first": 0}
    for name in dataset.list_tables("data"):
        for row in dataset.iterate_rows(name, ["reference_sha256"]):
            key = keys.get(str(row.values["reference_sha256"]))
            if key is None:
                passed["of a run from none of the sources"] += 1
            elif key in items:
                passed["of a source after its first"] += 1
            else:
                items[key] = partial(_read_row, dataset, name, row.number)
    if not items:
        raise InputError(f"{dataset.url}: no row comes from an image of {sources}")
    channels = None if dataset.summary is None else dataset.summary.channels
    names = RGB if channels is None else tuple(each.name for each in channels.named)
    files = [Path(dataset.files.resolve(name)) for name in dataset.list_tables("data")]
    return Side(items, names, tuple(files), passed)


def _read_row(dataset: Dataset, name: str, number: int) -> Values:
    """Returns (C, H, W): the channels of a row, else its RGB; raises StoreError if damaged."""
    values = dataset.read_row(name, number).values
    if values.get(COLUMN) is not None:
        found: Values = values[COLUMN]
        return found
    data = (values.get("image") or {}).get("bytes")
    if data is None:
        raise DamageError(f"{name} row {number}: has no image bytes")
    return np.moveaxis(decode_image(data, f"{name} row {number}"), -1, 0)


def read_places(path: Path | None, keys: list[str], pattern: str | None) -> dict[str, Place]:
    """Returns what is known of the place of each key.

    Raises:
        SourceError: a table that cannot be read.
        InputError: one without `key`, or with a place twice, or a label that is not 0 or 1.
    """
    if path is None:
        return {key: Place(match_group(key, pattern)) for key in keys}
    rows = read_table(path)
    if "key" not in rows[0][1]:
        raise InputError(f"{path}: needs the column key, the name of a pair's file")
    found: dict[str, Place] = {}
    for line, row in rows:
        labels = {}
        for column, value in row.items():
            if column.startswith("label_") and value:
                if value not in ("0", "1"):
                    raise InputError(f"{path}:{line}: {column}: must be 0 or 1, got {value!r}")
                labels[column.removeprefix("label_")] = value == "1"
        place = Place(row.get("patient") or None, row.get("slide") or None, labels)
        key = name_key(Path(row["key"]))
        if key in found:
            raise InputError(f"{path}:{line}: {key!r} stands twice: remove one")
        found[key] = place
    missing = [key for key in keys if key not in found]
    if missing:
        raise InputError(f"{path}: has no row of {missing[0]!r} and {len(missing) - 1} more pairs")
    return {key: found[key] for key in keys}


def find_unused(places: Collection[Place], names: Sequence[str], has_masks: bool) -> Iterator[str]:
    """Yields which labels of a table tell nothing, and why."""
    for name in sorted({name for place in places for name in place.labels}):
        told = {place.labels[name] for place in places if name in place.labels}
        count = sum(name in place.labels for place in places)
        if name not in names:
            yield f"label_{name}: no channel of that name, but {', '.join(names)}: not read"
        elif has_masks:
            yield f"label_{name}: not read, as masks tell what is positive"
        elif len(told) < 2 or count < LEAST:
            yield f"label_{name}: {count} labels, of one kind or under {LEAST}: no AUROC"


def list_masks(root: Path | None, keys: Sequence[str]) -> Mapping[str, Path] | None:
    """Returns the label map of each key in a folder; None for none.

    Raises:
        InputError: a key that has none.
    """
    if root is None:
        return None
    found = {
        name_key(path.relative_to(root)): path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in (".png", ".tif", ".tiff")
    }
    missing = [key for key in keys if key not in found]
    if missing:
        raise InputError(f"{root}: has no mask of {missing[0]!r}: {len(missing)} lack one")
    return found
