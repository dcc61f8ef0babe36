"""Patients and slides as hashes: of real images, and of rows of factory, which keep no names."""

from collections.abc import Mapping, Sequence
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.hashing import hash_bytes
from factory.data.images import SourceImage, iterate_rows
from factory.data.provenance import read_origin

MARKS = frozenset({"sample_id", "image_sha256"})
"""Columns that tell rows of a run, and of sets merged with one, from those of other tables."""
TOLD = ("group_sha256", "provenance")
"""Those of them that tell the group: of merged sets, of runs."""


def hash_group(name: str | None) -> str | None:
    """Returns the hash of a patient or slide, None for none."""
    return None if name is None else hash_bytes(name.encode())


def list_telling(header: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns that tell the group of a table's rows; none where it is not factory's."""
    return tuple(name for name in TOLD if name in header) if set(header) >= MARKS else ()


def find_group(row: Mapping[str, Any], where: str) -> str | None:
    """Returns the hash of the patient or slide that a row of factory comes from; None: none told.

    Raises:
        SourceError: damaged, written by a newer version, or of several; names `where`.
    """
    if row.get("group_sha256"):
        return str(row["group_sha256"])
    try:
        groups = read_origin(row, where).groups
    except StoreError as error:
        raise SourceError(str(error)) from error
    if len(groups) > 1:
        raise SourceError(f"{where}: comes from {len(groups)} patients or slides: take it out")
    return groups[0] if groups else None


def read_groups(images: Sequence[SourceImage]) -> tuple[str | None, ...]:
    """Returns (N,) the hash of each image's patient or slide; None where nothing tells it.

    Raises:
        SourceError: a file that cannot be read, or a row as `find_group` refuses it.
    """
    found = [hash_group(image.group) for image in images]
    left = [row for row, sha256 in enumerate(found) if sha256 is None]
    left.sort(key=lambda row: str(images[row].path))  # each file is read once
    rows = iterate_rows([images[row] for row in left], (*MARKS, *TOLD))
    for number, cells in zip(left, rows, strict=True):
        if cells.keys() >= MARKS:
            found[number] = find_group(cells, images[number].place)
    return tuple(found)
