"""One real image of a source: where it lies, what is known of it, its bytes and pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from factory.core.errors import SourceError
from factory.core.images import decode_image, read_size
from factory.core.late import NDArray, np

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp"}
)


_ARGUMENTS = {
    "image_column": "image",
    "label_column": "label",
    "caption_column": "caption",
    "group_column": "group",
    "group_pattern": "pattern",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns to read, and how file names tell the group."""

    image: str | None = None
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    pattern: str | None = None

    @classmethod
    def of(cls, columns: Mapping[str, str | None]) -> Self:
        """Returns it by the names of the arguments of `list_images`; raises KeyError for others."""
        return cls(**{_ARGUMENTS[name]: column for name, column in columns.items()})

    def list_columns(self) -> dict[str, str]:
        """Returns the columns asked for that must tell something of every image, by argument."""
        asked = {
            "group_column": self.group,
            "label_column": self.label,
            "caption_column": self.caption,
        }
        return {name: column for name, column in asked.items() if column is not None}


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
                return read_span(self.path, *self.span)
            if self.row is None:
                return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error})") from error
        from factory.data.images.table import read_cell

        return read_cell(self.path, self.row, self.column)

    def read_pixels(self) -> NDArray[np.uint8]:
        """Returns (H, W, 3) uint8 RGB.

        Raises:
            SourceError: not a readable 8-bit image.
        """
        return decode_image(self.read_bytes(), self.place)

    def read_size(self) -> tuple[int, int]:
        """Returns width and height, px, of what `read_pixels` gives; reads the header only.

        Raises:
            SourceError: not a readable image.
        """
        return read_size(self.read_bytes(), self.place)


def match_group(name: str, pattern: str | None) -> str | None:
    """Returns the first group of `pattern` in a file name, or None without a pattern.

    Raises:
        SourceError: it is no regular expression, does not match, or has no group.
    """
    if pattern is None:
        return None
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise SourceError(
            f"group_pattern {pattern!r}: no regular expression ({error}): correct it"
        ) from error
    if match is None:
        raise SourceError(
            f"{name}: group_pattern {pattern!r} finds no group in this file name: write one that "
            "matches every name, with the patient or slide in ( ), or leave it out where names do "
            "not tell it (a folder below each class, or a group column, may)"
        )
    if not match.groups():
        raise SourceError(
            f"{name}: group_pattern {pattern!r} finds no group: put the part that is the patient "
            "or slide in ( )"
        )
    return match.group(1)


def read_name(value: Any, where: str, what: str) -> str | None:
    """Returns a class, patient or slide as text; None where it is null, NaN or blank.

    A whole number is written alike whether its column holds integers or, for an empty cell among
    them, floats.

    Args:
        value: of a cell or field.
        where: it stands, for messages.
        what: is named, e.g. `class`.

    Raises:
        SourceError: bytes, a list or a mapping.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes | list | tuple | dict):
        got = type(value).__name__
        raise SourceError(f"{where}: want a {what} as text or number, got {got}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


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


def read_span(path: Path, offset: int, size: int) -> bytes:
    """Returns bytes of a file.

    Raises:
        OSError: it cannot be read.
        SourceError: it ends before.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise SourceError(f"{path}: cut off since it was listed: {size} bytes at {offset} wanted")
    return data
