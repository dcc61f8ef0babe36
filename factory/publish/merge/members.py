"""The images of a merge: what is known of each, real or synthetic, without its pixels."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.files.disk_map import DiskMap
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, hash_pixels
from factory.core.places import name_place
from factory.data.folders import FolderKind, tell_kind
from factory.data.groups import hash_group
from factory.data.images import SourceImage, iterate_images, iterate_rows
from factory.data.images.image import Wanted
from factory.data.provenance import read_origin
from factory.engine.forgotten import read_forgotten
from factory.engine.run_folder import RunFolder

COLUMNS = ("sample_id", "model", "reference_sha256", "provenance")
"""Columns of factory's own rows that a merged row keeps."""


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a merged set.

    Attributes:
        image: where its bytes are.
        source: name of the set that it comes from.
        is_synthetic: whether it comes from a synthetic set.
        class_name: as renamed, or None.
        image_sha256: of its stored bytes.
        pixels_sha256: of its pixels, the same for another file of the same image.
        is_test: real, and held out as it is.
        sample_id: of a factory row.
        reference_sha256: of the real image that it varies.
        reference_pixels_sha256: of that image's pixels, where the row tells.
        groups: hashes of the patients or slides that it is made from, by its image or mask.
    """

    image: SourceImage
    source: str
    is_synthetic: bool
    class_name: str | None
    image_sha256: str
    pixels_sha256: str
    is_test: bool = False
    sample_id: str | None = None
    reference_sha256: str | None = None
    reference_pixels_sha256: str | None = None
    groups: tuple[str, ...] = ()

    @property
    def group_sha256(self) -> str | None:
        """Hash of its patient or slide, as `groups` are made."""
        return hash_group(self.image.group)

    def pack(self) -> list[Any]:
        """Returns what JSON can hold of it."""
        of_image = [getattr(self.image, name) for name in _OF_IMAGE]
        of_image[_PATH] = str(self.image.path)
        return [*of_image, *(getattr(self, name) for name in _NAMES)]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """Returns what `pack` was asked of."""
        of_image, own = packed[: len(_OF_IMAGE)], packed[len(_OF_IMAGE) :]
        of_image[_PATH] = _make_path(of_image[_PATH])
        span = of_image[_SPAN]
        of_image[_SPAN] = None if span is None else tuple(span)
        own[_GROUPS] = tuple(own[_GROUPS])
        return cls(SourceImage(*of_image), *own)


_OF_IMAGE = [each.name for each in fields(SourceImage)]
_PATH, _SPAN = map(_OF_IMAGE.index, ("path", "span"))
_NAMES = [each.name for each in fields(Member)][1:]
_GROUPS = _NAMES.index("groups")
_make_path = lru_cache(maxsize=8)(Path)
"""Rows that follow each other lie in one file."""


def read_real(
    root: Path,
    source: str,
    rename: Mapping[str, str],
    wanted: Wanted,
    is_test: bool = False,
) -> Iterator[Member]:
    """Yields the images of a real set.

    Raises:
        SourceError: images that cannot be read.
    """
    for image in iterate_images(root, wanted):
        name = rename.get(image.class_name or "", image.class_name)
        yield Member(image, source, False, name, *_hash(image), is_test)


def _hash(image: SourceImage) -> tuple[str, str]:
    """Returns the hashes of an image's bytes and pixels."""
    data = image.read_bytes()
    return hash_bytes(data), hash_pixels(decode_image(data, image.place))


def read_synthetic(root: Path, source: str, rename: Mapping[str, str]) -> Iterator[Member]:
    """Yields the images of a synthetic set: rows of factory, or any images.

    Raises:
        SourceError: images that cannot be read.
    """
    images, again = itertools.tee(iterate_images(root, Wanted()))
    for image, cells in zip(images, iterate_rows(again, COLUMNS), strict=True):
        row = {name: _read_text(cell, name, image.place) for name, cell in cells.items()}
        try:
            origin = read_origin(row, image.place)
        except StoreError as error:
            raise SourceError(str(error)) from error
        yield Member(
            image,
            source,
            True,
            rename.get(image.class_name or "", image.class_name),
            *_hash(image),
            sample_id=row.get("sample_id"),
            reference_sha256=row.get("reference_sha256"),
            reference_pixels_sha256=origin.reference_pixels_sha256,
            groups=origin.groups,
        )


def _read_text(cell: Any, column: str, where: str) -> str | None:
    """Returns the text of a cell; some writers store it as bytes.

    Raises:
        SourceError: something else.
    """
    if isinstance(cell, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return cell.decode()
    if cell is None or isinstance(cell, str):
        return cell
    got = type(cell).__name__
    raise SourceError(
        f"{where}: column {column!r}: want text, as factory writes it, got {got}: rename the "
        "column, or leave it out"
    )


def refuse_forgotten(members: Iterable[Member], runs: Sequence[Path]) -> None:
    """Refuses images of patients whom one of the synthetic runs was made to forget.

    Raises:
        InputError: says how many, of which set.
    """
    for root in runs:
        if tell_kind(root) is not FolderKind.RUN:
            continue
        forgotten = read_forgotten(RunFolder(str(root)))
        forgotten.refuse_half(str(root))
        own = ((each, {*each.groups, each.group_sha256} - {None}) for each in members)
        back = (each for each, groups in own if forgotten.matches(str(one) for one in groups))
        if (first := next(back, None)) is not None:
            count = 1 + sum(1 for _ in back)
            raise InputError(
                f"{first.image.path}: {count:,} images of {first.source} come from a "
                f"patient whom {root} was made to forget: take them out of that set"
            )


def name_sources(roots: Sequence[Path]) -> dict[Path, str]:
    """Returns a name for each folder or file: its last part, of equal ones the last two.

    Raises:
        InputError: one of them is given twice.
    """
    resolved = {root: root.resolve() for root in roots}
    names: dict[Path, str] = {}
    for root, path in resolved.items():
        alike = sum(other.name == path.name for other in resolved.values())
        names[root] = name_place(path) if alike > 1 else path.name
    if len(roots) > len(set(resolved.values())):
        raise InputError("a set is given twice: give each once")
    return names


def unite_classes(members: Iterable[Member]) -> tuple[str, ...]:
    """Returns the class names of all sets, sorted.

    Raises:
        InputError: names that differ in spelling alone.
    """
    names = sorted({each.class_name for each in members if each.class_name is not None})
    spelt: dict[str, str] = {}
    for name in names:
        plain = "".join(char for char in name.casefold() if char.isalnum()) or name
        other = spelt.setdefault(plain, name)
        if other != name:
            raise InputError(
                f"classes {other!r} and {name!r} differ in spelling alone: make them one with "
                f"--rename {other!r}={name!r}, or name one of them differently"
            )
    return tuple(names)


def find_conflicts(members: Iterable[Member]) -> tuple[Counter[str], list[Member]]:
    """Returns classes -> images that stand under all of them; and of the first, up to three.

    Images are told apart by their pixels. `members` is walked through up to three times.
    """
    names: DiskMap[list[str]] = DiskMap()
    for each in members:
        if each.class_name is not None:
            known = names.get(each.pixels_sha256, [])
            if each.class_name not in known:
                names[each.pixels_sha256] = [*known, each.class_name]
    counts = Counter(" and ".join(sorted(found)) for found in names.values() if len(found) > 1)
    if not counts:
        return counts, []
    classed = (each for each in members if each.class_name is not None)
    first = next(each.pixels_sha256 for each in classed if len(names[each.pixels_sha256]) > 1)
    classed = (each for each in members if each.class_name is not None)
    return counts, [*itertools.islice((e for e in classed if e.pixels_sha256 == first), 3)]
