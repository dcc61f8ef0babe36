"""What of a source is passed over: counted by kind and named, with the first of each."""

import io
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from factory.core.notes import tell
from factory.core.warned import name_image
from factory.data.images.image import IMAGE_SUFFIXES, SourceImage

METADATA = ("metadata.csv", "metadata.jsonl")
"""As in `datasets`: one row per image, named by `file_name` relative to the folder."""
NO_DATA = frozenset(
    {".cfg", ".csv", ".gmt", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lock", ".log"}
    | {".md", ".ndjson", ".pdf", ".py", ".rst", ".sh", ".sha256", ".tmp", ".toml", ".tsv", ".txt"}
    | {".xml", ".yaml", ".yml"}
)
"""Suffixes of texts that may stand beside images; of files without one their first bytes tell."""
TABLES = frozenset({".parquet", ".arrow", ".tar"})
_KINDS_NAMED = 6
_HEAD = 132
_MAGIC: Mapping[str, tuple[int, tuple[bytes, ...]]] = {
    "PNG": (0, (b"\x89PNG\r\n\x1a\n",)),
    "JPEG": (0, (b"\xff\xd8\xff",)),
    "TIFF": (0, (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0")),
    "WebP": (8, (b"WEBP",)),
    "GIF": (0, (b"GIF87a", b"GIF89a")),
    "BMP": (6, (b"\0\0\0\0",)),
    "JPEG 2000": (0, (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    "DICOM": (128, (b"DICM",)),
}
"""Format -> place and bytes that it begins with; some need more, see `sniff_format`."""
_BEGINS = {"WebP": b"RIFF", "BMP": b"BM"}


def sniff_format(head: bytes) -> str | None:
    """Returns the image format that the first 132 bytes of a file tell, or None."""
    for name, (place, magics) in _MAGIC.items():
        if head.startswith(_BEGINS.get(name, b"")) and head[place:].startswith(magics):
            return name
    return None


# --- files and folders ---------------------------------------------------------------------------


def tell_passed_over(files: Sequence[Path], root: Path, beside: str) -> None:
    """Says how many files of each kind are not read, texts excepted.

    Args:
        files: those that are not read.
        root: what the user named.
        beside: what is read.
    """
    kinds: dict[str, tuple[int, str]] = {}
    for path in files:
        kind = _name_kind(path, beside)
        if kind is not None:
            count, first = kinds.get(kind, (0, path.relative_to(root).as_posix()))
            kinds[kind] = count + 1, first
    if kinds:
        total = sum(count for count, _ in kinds.values())
        many = "s" if total > 1 else ""
        said = _count_kinds(kinds)
        tell(f"{root}: {total:,} file{many} passed over beside its {beside}: {said}")


def _name_kind(path: Path, beside: str) -> str | None:
    """Returns what kind of data a file that is not read holds, None for texts.

    The metadata of images is told where it is read (`factory.data.images.folder`).
    """
    suffix = path.suffix.lower()
    if suffix:
        if path.name in METADATA and beside != "images":
            return path.name
        return None if suffix in NO_DATA else suffix
    try:
        with path.open("rb") as file:
            found = sniff_format(file.read(_HEAD))
    except OSError:
        return None
    return None if found is None else f"{found} without a suffix"


def tell_hidden(folders: Sequence[Path], root: Path) -> None:
    """Says which hidden folders hold what would be read elsewhere."""
    found = [first for folder in folders if (first := _find_data(folder)) is not None]
    if found:
        many, it = ("s", "them") if len(found) > 1 else ("", "it")
        tell(
            f"{root}: {len(found):,} hidden folder{many} with images or tables passed over "
            f"({found[0].relative_to(root).as_posix()}): rename {it} to have {it} read"
        )


def _find_data(folder: Path) -> Path | None:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES | TABLES:
                return Path(place) / name
    return None


def tell_bare(folders: Sequence[Path], images: Sequence[Path], root: Path) -> None:
    """Says which folders hold no image, at any depth, and so are no class and no patient."""
    holding = {root}
    for path in images:
        for parent in path.parents:
            if parent in holding:
                break
            holding.add(parent)
    bare = [each for each in folders if each not in holding and each.parent in holding]
    if bare:
        many, hold = ("s", "hold") if len(bare) > 1 else ("", "holds")
        names = ", ".join(each.relative_to(root).as_posix() for each in bare[:3])
        more = ", ..." if len(bare) > 3 else ""
        tell(f"{root}: {len(bare):,} folder{many} passed over that {hold} no image: {names}{more}")


# --- frames --------------------------------------------------------------------------------------


class Frames:
    """Counts files, or members of tars, that have further pages or frames: one is read."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, str]] = {}

    def note(self, image: SourceImage) -> None:
        """Looks at one image."""
        kind = _find_frames(image) if image.row is None else None
        if kind is not None:
            count, first = self._kinds.get(kind, (0, image.key))
            self._kinds[kind] = count + 1, first

    def tell(self, root: Path) -> None:
        """Says how many there were."""
        if self._kinds:
            total = sum(count for count, _ in self._kinds.values())
            have = "files have" if total > 1 else "file has"
            said = _count_kinds(self._kinds)
            tell(f"{root}: {total:,} {have} further pages or frames, passed over: {said}")


def _find_frames(image: SourceImage) -> str | None:
    """Returns the format of an image with several frames; what is damaged, decoding tells."""
    start = 0 if image.span is None else image.span[0]
    try:
        with image.path.open("rb") as file:
            file.seek(start)
            head = file.read(_HEAD)
            kind = sniff_format(head)
            is_animated = (kind == "PNG" and _has_animation(file, start)) or (
                kind == "WebP" and head[12:16] == b"VP8X" and bool(head[20] & 2)
            )  # WebP container specification, section "Extended File Format", flag A
            if kind != "TIFF" and not is_animated:
                return None
            file.seek(0)
            data = file if image.span is None else io.BytesIO(image.read_bytes())
            with name_image(image.place), Image.open(data) as opened:
                return kind if getattr(opened, "n_frames", 1) > 1 else None
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        return None


def _has_animation(file: BinaryIO, start: int) -> bool:
    """Whether `acTL` comes before the pixels (PNG specification, third edition, section 11.3.6)."""
    place = start + 8
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] in {b"IDAT", b"IEND"}:
            return False
        if head[4:] == b"acTL":
            return True
        place += 12 + int.from_bytes(head[:4], "big")


def _count_kinds(kinds: Mapping[str, tuple[int, str]]) -> str:
    """Lists kinds by their number, each with its first name."""
    ranked = sorted(kinds, key=lambda kind: (-kinds[kind][0], kind))
    said = ", ".join(
        f"{kinds[kind][0]:,} {kind} ({kinds[kind][1]})" for kind in ranked[:_KINDS_NAMED]
    )
    return said + (", and further kinds" if len(ranked) > _KINDS_NAMED else "")
