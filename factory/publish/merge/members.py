"""The images of a merge: what is known of each, real or synthetic, without its pixels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, hash_pixels
from factory.core.places import name_place
from factory.data.folders import FolderKind, tell_kind
from factory.data.groups import hash_group
from factory.data.images import SourceImage, iterate_rows, list_images
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


def read_real(
    root: Path,
    source: str,
    rename: Mapping[str, str],
    columns: Mapping[str, Any],
    is_test: bool = False,
) -> Iterator[Member]:
    """Yields the images of a real set; `columns` are further arguments of `list_images`.

    Raises:
        SourceError: images that cannot be read.
    """
    for image in list_images(root, **columns):
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
    images = list_images(root)
    for image, row in zip(images, iterate_rows(images, COLUMNS), strict=True):
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


def refuse_forgotten(members: Sequence[Member], runs: Sequence[Path]) -> None:
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
        back = [each for each, groups in own if forgotten.matches(str(one) for one in groups)]
        if back:
            raise InputError(
                f"{back[0].image.path}: {len(back):,} images of {back[0].source} come from a "
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


def unite_classes(members: Sequence[Member]) -> tuple[str, ...]:
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


def find_conflicts(members: Sequence[Member]) -> dict[str, list[Member]]:
    """Returns the images that stand under several classes, by the hash of their pixels."""
    alike: dict[str, list[Member]] = {}
    for member in members:
        if member.class_name is not None:
            alike.setdefault(member.pixels_sha256, []).append(member)
    return {
        sha: found for sha, found in alike.items() if len({each.class_name for each in found}) > 1
    }
