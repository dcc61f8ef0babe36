"""One real image of a source: where it lies, what is known of it, its bytes and pixels."""

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
class Wanted:
    """Which columns to read, and how file names tell the group."""

    image: str = "image"
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One real image, read on demand.

    `key` is its path below the root, `file.parquet#row`, or `file.tar#member`; `group` is the
    patient or slide; `span` is (offset, size) of its bytes in a tar.
    """

    key: str
    class_name: str | None
    group: str | None
    path: Path
    row: int | None = None
    column: str = "image"
    caption: str | None = None
    span: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        if self.span is not None:
            member = self.key.partition(f"{self.path.name}#")[2]
            return f"{self.path}#{member}"
        return str(self.path) if self.row is None else f"{self.path}#{self.row}"

    def read_bytes(self) -> bytes:
        """Returns the encoded bytes as stored.

        Raises:
            SourceError: the file, row or member cannot be read.
        """
        try:
            if self.span is not None:
                return _read_span(self.path, *self.span)
            if self.row is None:
                return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error})") from error
        from factory.sources.table import read_cell

        return read_cell(self.path, self.row, self.column)

    def read_pixels(self) -> NDArray[np.uint8]:
        """Returns (H, W, 3) uint8 RGB.

        Raises:
            SourceError: not a readable 8-bit image.
        """
        return decode_image(self.read_bytes(), self.place)


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


def iterate_pixels(
    images: Sequence[SourceImage], size: int, fit: str = "crop"
) -> Iterator[NDArray[np.uint8]]:
    """Yields each image as (size, size, 3) uint8 RGB."""
    for image in images:
        yield fit_image(image.read_pixels(), size, size, fit)


def match_group(name: str, pattern: str | None) -> str | None:
    """Returns the first group of `pattern` in a file name, or None without a pattern.

    Raises:
        SourceError: it does not match, or has no group.
    """
    if pattern is None:
        return None
    match = re.search(pattern, name)
    if match is None or not match.groups():
        raise SourceError(
            f"{name}: group_pattern {pattern!r} finds no group: "
            "it needs one (...) that matches every file name"
        )
    return match.group(1)


def read_text(value: Any, where: str, column: str) -> str | None:
    """Returns a caption, or None where it is null or blank.

    Raises:
        SourceError: not text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        got = type(value).__name__
        raise SourceError(f"{where}: column {column!r}: want a caption as text, got {got}")
    return value.strip() or None


def _read_span(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise SourceError(f"{path}: cut off since it was listed: {size} bytes at {offset} wanted")
    return data
