"""Real images: one way to read an ImageFolder, parquet files, or a Hugging Face dataset folder."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.errors import SourceError
from factory.images import decode_image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One real image, read on demand.

    `key` is its path below the root, or `file.parquet#row`; `group` is the patient or slide.
    """

    key: str
    class_name: str | None
    group: str | None
    path: Path
    row: int | None = None
    column: str = "image"

    def read_bytes(self) -> bytes:
        """Returns the encoded bytes as stored.

        Raises:
            SourceError: the file or row cannot be read.
        """
        try:
            if self.row is None:
                return self.path.read_bytes()
            return _read_parquet_cell(self.path, self.row, self.column)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error})") from error

    def read_pixels(self) -> NDArray[np.uint8]:
        """Returns (H, W, 3) uint8 RGB.

        Raises:
            SourceError: not a readable 8-bit image.
        """
        name = str(self.path) if self.row is None else f"{self.path}#{self.row}"
        return decode_image(self.read_bytes(), name)


def list_images(
    root: Path,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    image_column: str = "image",
    label_column: str | None = None,
) -> tuple[SourceImage, ...]:
    """Lists the images of an ImageFolder, a parquet file, or a folder of parquet files.

    An ImageFolder has one folder per class; images straight below `root` have no class. A
    `metadata.csv` in `root` (column `file_name`) may give the group. In parquet, the class is
    `label_column`, else `class_name`, else `label` (a `ClassLabel` becomes its name). The order is
    sorted and does not depend on the file system.

    Args:
        root: folder or parquet file.
        group_column: column of `metadata.csv` or of the parquet that holds the patient or slide.
        group_pattern: regular expression on the file name; its first group is the patient or slide.
        image_column: parquet column with the image struct (bytes, path) or raw bytes.
        label_column: parquet column with the class.

    Raises:
        SourceError: nothing there, no images, or a column that is missing.
    """
    if not root.exists():
        raise SourceError(f"{root}: no such file or folder: give a folder of images or a parquet")
    parquet = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if parquet:
        found = _list_parquet(
            parquet, root, group_column, group_pattern, image_column, label_column
        )
    elif any(root.rglob("*.arrow")):
        raise SourceError(
            f"{root}: an arrow cache written by save_to_disk: save it with to_parquet(...) instead"
        )
    else:
        found = _list_folder(root, group_column, group_pattern)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(f"{root}: holds no images ({suffixes}) and no parquet files")
    return tuple(found)


def list_classes(images: Sequence[SourceImage]) -> tuple[str, ...]:
    """Returns the class names present, sorted."""
    return tuple(sorted({image.class_name for image in images if image.class_name is not None}))


def fit_image(
    pixels: NDArray[np.uint8], width: int, height: int, fit: str = "crop"
) -> NDArray[np.uint8]:
    """Brings an image to (height, width, 3) uint8.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        width: px.
        height: px.
        fit: `crop` cuts the centre at the source's own scale and only enlarges what is too small,
            so that mpp is kept; `resize` takes the largest centred area of the right aspect and
            resamples it (Lanczos).
    """
    source_height, source_width = pixels.shape[:2]
    scale = max(width / source_width, height / source_height)
    if fit == "crop":
        scale = max(scale, 1.0)
    area = (min(source_width, round(width / scale)), min(source_height, round(height / scale)))
    left, top = (source_width - area[0]) // 2, (source_height - area[1]) // 2
    cut = pixels[top : top + area[1], left : left + area[0]]
    if cut.shape[:2] == (height, width):
        return cut
    return np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.LANCZOS))


def _list_folder(
    root: Path, group_column: str | None, group_pattern: str | None
) -> list[SourceImage]:
    groups = _read_metadata_groups(root, group_column)
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        key = path.relative_to(root).as_posix()
        folder = path.parent.relative_to(root).as_posix()
        group = groups.get(key) if groups else _match_group(path.name, group_pattern)
        found.append(SourceImage(key, None if folder == "." else folder, group, path))
    return found


def _read_metadata_groups(root: Path, group_column: str | None) -> dict[str, str]:
    if group_column is None:
        return {}
    import csv

    path = root / "metadata.csv"
    if not path.is_file():
        raise SourceError(f"{path}: needed for group_column {group_column!r}, but not there")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or group_column not in rows[0] or "file_name" not in rows[0]:
        raise SourceError(f"{path}: needs the columns file_name and {group_column}")
    return {row["file_name"]: row[group_column] for row in rows}


def _match_group(name: str, pattern: str | None) -> str | None:
    if pattern is None:
        return None
    match = re.search(pattern, name)
    if match is None or not match.groups():
        raise SourceError(
            f"{name}: group_pattern {pattern!r} finds no group: "
            "it needs one (...) that matches every file name"
        )
    return match.group(1)


def _list_parquet(
    files: Sequence[Path],
    root: Path,
    group_column: str | None,
    group_pattern: str | None,
    image_column: str,
    label_column: str | None,
) -> list[SourceImage]:
    import pyarrow.parquet as pq

    found: list[SourceImage] = []
    for path in files:
        try:
            schema = pq.read_schema(path)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not a readable parquet file ({error})") from error
        names = set(schema.names)
        label = label_column or next((c for c in ("class_name", "label") if c in names), None)
        for column in (image_column, label, group_column):
            if column is not None and column not in names:
                has = ", ".join(schema.names)
                raise SourceError(f"{path}: no column {column!r}: it has {has}")
        columns = [c for c in (label, group_column) if c is not None]
        table = pq.read_table(path, columns=columns)
        rows = pq.ParquetFile(path).metadata.num_rows
        labels = table.column(label).to_pylist() if label else [None] * rows
        groups = table.column(group_column).to_pylist() if group_column else [None] * rows
        names_of_labels = _read_label_names(schema.metadata, label)
        stem = path.name if path == root else path.relative_to(root).as_posix()
        for row, (value, group) in enumerate(zip(labels, groups, strict=True)):
            is_label = names_of_labels is not None and isinstance(value, int)
            class_value = names_of_labels[value] if is_label else value  # type: ignore[index]
            class_name = None if class_value is None else str(class_value)
            name = None if group is None else str(group)
            found.append(SourceImage(f"{stem}#{row}", class_name, name, path, row, image_column))
    if group_pattern is not None:
        raise SourceError(f"{root}: group_pattern reads file names: give group_column for parquet")
    return found


def _read_label_names(metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    import json

    if not metadata or b"huggingface" not in metadata or label is None:
        return None
    features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
    names: list[str] | None = features.get(label, {}).get("names")
    return names


_open_tables: dict[Path, Any] = {}


def _read_parquet_cell(path: Path, row: int, column: str) -> bytes:
    import pyarrow.parquet as pq

    if path not in _open_tables:
        _open_tables.clear()  # one file at a time: images are read in order
        _open_tables[path] = pq.read_table(path, columns=[column], memory_map=True).column(column)
    cell: Any = _open_tables[path][row].as_py()
    data: Any = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(cell, dict) and data is None and cell.get("path"):
        return (path.parent / str(cell["path"])).read_bytes()
    if not isinstance(data, bytes):
        raise SourceError(f"{path}#{row}: column {column!r} holds no image bytes")
    return data


def iterate_pixels(
    images: Sequence[SourceImage], size: int, fit: str = "crop"
) -> Iterator[NDArray[np.uint8]]:
    """Yields each image as (size, size, 3) uint8 RGB."""
    for image in images:
        yield fit_image(image.read_pixels(), size, size, fit)
