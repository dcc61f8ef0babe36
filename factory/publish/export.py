"""Exporting: a data set as ImageFolder files or WebDataset tars, images byte for byte."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files.new_folder import build_folder
from factory.core.files.store import FileStore
from factory.core.notes import tell
from factory.data.channels import COLUMN
from factory.data.writers.webdataset import TarFiles
from factory.engine.dataset import DATA, Dataset

_FOLDER_NAME = re.compile(r"[^./\\\0][^/\\\0]*")
_LISTED = ("class_name", "caption", "is_synthetic", "sample_id", "image_sha256")
LIST = "rows.csv"


def export_images(
    dataset: Dataset, out: Path, unlabelled: str | None = None
) -> dict[str, dict[str, int]]:
    """Writes `OUT/SPLIT/CLASS/NAME.webp`, as torchvision's ImageFolder reads it, and `rows.csv`.

    Channels beside RGB stay behind, which is told.

    Args:
        dataset: what to export; its accepted rows.
        out: new folder.
        unlabelled: folder of images without a class; None refuses them.

    Returns:
        Split -> class -> images. ImageFolder numbers the classes that a split has: where one has
        no image of a class, its labels are others.

    Raises:
        InputError: images without a class, a class that cannot name a folder, or `out` in use.
        StoreError: a damaged file.
    """
    counts: dict[str, Counter[str]] = {}
    with build_folder(out) as build, (build / LIST).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", "split", *_LISTED])
        for split, row in iterate_splits(dataset):
            folder = row.get("class_name") or unlabelled
            name = Path(str(row["image"]["path"])).name
            if folder is None:
                raise InputError(
                    f"{dataset.url}: image {name} has no class, and ImageFolder knows images by "
                    "class only: take --to webdataset, or name a folder with --unlabelled"
                )
            check_folder_name(folder)
            path = build / split / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            counted = counts.setdefault(split, Counter())
            if path.exists():
                path = path.with_name(f"{path.stem}-{counted.total()}{path.suffix}")
            if not counted and split == next(iter(counts)) and row.get(COLUMN) is not None:
                tell("the channels beside RGB are left out: --to ome-tiff or webdataset has them")
            path.write_bytes(row["image"]["bytes"])
            listed = (row.get(column) for column in _LISTED)
            table.writerow([path.relative_to(build).as_posix(), split, *listed])
            counted[folder] += 1
    return {split: dict(counted) for split, counted in counts.items()}


def export_tars(dataset: Dataset, out: Path, per_file: int) -> dict[str, int]:
    """Writes `OUT/SPLIT-00000.tar`, byte for byte reproducible, as `output.formats` does.

    Args:
        dataset: what to export; its accepted rows.
        out: new folder.
        per_file: samples of a tar.

    Returns:
        Split -> images.

    Raises:
        InputError: `out` is in use.
        StoreError: a damaged file.
    """
    counts: Counter[str] = Counter()
    with build_folder(out) as build, ExitStack() as stack:
        tars: dict[str, TarFiles] = {}
        keys: set[tuple[str, str]] = set()
        for split, row in iterate_splits(dataset):
            key = str(row.get("sample_id") or Path(row["image"]["path"]).stem)
            if (split, key) in keys:  # the same real image twice
                row["sample_id"] = f"{key}-{counts[split]}"
            keys.add((split, key))
            if split not in tars:
                writer = TarFiles(FileStore(str(build)), ".", split, per_file)
                tars[split] = stack.enter_context(writer)
            tars[split].write([row])
            counts[split] += 1
    return dict(counts)


def check_folder_name(name: str) -> None:
    """Checks that a class can be the name of a folder; an empty one is that of its split.

    Raises:
        InputError: it cannot.
    """
    if name and _FOLDER_NAME.fullmatch(name) is None:
        raise InputError(f"class {name!r} cannot be the name of a folder: rename it")


def iterate_splits(dataset: Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (split, row) of all rows in `data`, by file; files are called `SPLIT-...`.

    Raises:
        InputError: a row without image bytes.
        StoreError: a damaged file.
    """
    for name in dataset.list_tables(DATA):
        split = Path(name).name.partition("-")[0].removesuffix(".parquet")
        for row in dataset.iterate_rows(name):
            image = row.values.get("image")
            if not image or image.get("bytes") is None:
                raise InputError(f"{dataset.url}/{name} row {row.place}: has no image bytes")
            yield split, dict(row.values)
