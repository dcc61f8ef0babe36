"""Puts the files of a finished data set in place of those of an earlier one."""

import contextlib
import json
from collections.abc import Iterable, Sequence

from factory.errors import MissingError
from factory.store.files import FileStore
from factory.store.run_folder import WORK

BUILD = f"{WORK}/build"
PLACED = f"{WORK}/files.json"
"""Names of the data set's files that were put in their place, or were about to be."""
FOLDERS = ("data", "rejected", "webdataset")


def find_lost(files: FileStore, names: Iterable[str]) -> str | None:
    """Returns the first of a data set's files that is gone; a late listing costs a rewrite."""
    there = {f"{folder}/{name}" for folder in FOLDERS for name in files.list(folder)}
    return min(set(names) - there, default=None)


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
