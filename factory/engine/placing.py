"""Puts the files of a finished data set in place of those of an earlier one."""

import contextlib
import json
from collections.abc import Mapping, Sequence

from factory.core.errors import MissingError
from factory.core.files.store import FileStore
from factory.engine.run_folder import WORK

BUILD = f"{WORK}/build"
PLACED = f"{WORK}/files.json"
"""Names of the data set's files that were put in their place, or were about to be."""
FOLDERS = ("data", "rejected", "webdataset")


HASHED = 4 << 30
"""Bytes of a data set on a disk up to which `compare_files` reads it: seconds."""


def compare_files(
    files: FileStore, hashes: Mapping[str, str], sizes: Mapping[str, int]
) -> tuple[str, str]:
    """Compares the files of a finished data set with what was recorded of them.

    Their names and sizes; and, where they lie on a disk and hold no more than HASHED together, the
    sha256 of each. A late listing costs a rewrite.

    Args:
        files: of the run folder.
        hashes: name -> sha256.
        sizes: name -> bytes; those of before sizes were recorded lack here.

    Returns:
        What is wrong with the first file that is, or an empty text; and what was compared.

    Raises:
        StoreError: a file cannot be read.
    """
    found = {name: size for folder in FOLDERS for name, size in files.list_sizes(folder).items()}
    for name in sorted(hashes):
        if name not in found:
            return f"{name}: gone", ""
        if found[name] != sizes.get(name, found[name]):
            return f"{name}: {found[name]:,} bytes instead of {sizes[name]:,}", ""
    total = sum(found[name] for name in hashes)
    if not files.is_local or total > HASHED:
        where = f"{total / 2**30:,.1f} GiB" if files.is_local else "in an object store"
        return "", (
            f"compared the sizes of its {len(hashes):,} files, not their content ({where}): "
            f"factory verify {files.url} reads them"
        )
    for name in sorted(hashes):
        if files.hash(name) != hashes[name]:
            return f"{name}: its content was changed", ""
    return "", f"compared its {len(hashes):,} files with their sha256"


def put_in_place(files: FileStore, summary: str, built: Sequence[str]) -> None:
    """Puts files in the place of those of an earlier data set, each by its name.

    No folder is moved, as object stores have none, and no listing is believed: what was put there
    before stands in a record, which also outlives a kill on the way.
    """
    names = {name.removeprefix(f"{BUILD}/") for name in built}
    known: set[str] = set()
    with contextlib.suppress(MissingError, ValueError, TypeError, AttributeError):
        listed = json.loads(files.read(PLACED))
        known.update(each for each in listed if each.split("/")[0] in FOLDERS)
    for folder in FOLDERS:
        known.update(f"{folder}/{name}" for name in files.list(folder))
    files.write(PLACED, json.dumps(sorted(known | names)).encode())
    files.remove(summary)  # until it is written again, the data set counts as unfinished
    for name in sorted(names):
        files.move(f"{BUILD}/{name}", name)
    for name in sorted(known - names):
        files.remove(name)
    for folder in FOLDERS:
        if not any(name.startswith(f"{folder}/") for name in names):
            files.remove(folder)
    files.write(PLACED, json.dumps(sorted(names)).encode())
