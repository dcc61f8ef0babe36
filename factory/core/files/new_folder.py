"""Folders to write into: `build_folder` makes a new one, `refuse_foreign` keeps out of others'."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, StoreError
from factory.core.files.atomic import write_file
from factory.core.files.edge import describe_failure
from factory.core.hashing import refuse_change
from factory.core.plain import write_json

WORK = ".factory"
"""Folder below a run folder for all that is not the data set itself; hidden, but it counts."""
_BUILD = ".unfinished"


def refuse_foreign(out: Path, own: str) -> None:
    """Refuses a folder that holds anything but what the same command writes.

    Args:
        out: where files are to be written; it need not be there.
        own: regular expression of the names that the command writes.

    Raises:
        InputError: it holds something else, or is no folder; nothing was touched.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file: give --out a new folder")
    names = (path.name for path in out.iterdir())
    seen = (name for name in names if not name.startswith(".") or name == WORK)
    foreign = sorted(name for name in seen if not re.fullmatch(own, name))
    if foreign:
        raise InputError(
            f"{out}: holds something else ({foreign[0]}), and nothing was written into it: give "
            "--out a new folder"
        )


def claim_folder(out: Path, name: str, described: Mapping[str, Any], own: str = "") -> None:
    """Begins a piece of work in a folder, or makes sure that it is the one begun there.

    Args:
        out: the folder; it need not be there.
        name: of the file in it that says what was begun.
        described: all that must stay the same, as plain data.
        own: as in `refuse_foreign`, of a folder without that file.

    Raises:
        MismatchError: another one, with a diff.
        InputError: the folder holds something else.
        StoreError: the file is damaged, or cannot be written.
    """
    path, text = out / name, write_json(described)
    if not path.is_file():
        refuse_foreign(out, own)
        write_file(path, text.encode())
        return
    try:
        stored = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}): remove it") from error
    refuse_change(str(out), "was begun with other settings", stored, json.loads(text))


@contextmanager
def build_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to write into; at the end its content is moved into `out`.

    What an earlier attempt left unfinished is removed first; anything else in `out` is not touched.
    Where the input turns out to be wrong, no folder is left that was not there.

    Raises:
        InputError: `out` holds something already.
        StoreError: disk full, permission; the same command goes on.
    """
    try:
        with _build(out) as build:
            yield build
    except OSError as error:
        place = str(error.filename or out)
        raise describe_failure(place, error, is_local=True) from error


@contextmanager
def _build(out: Path) -> Iterator[Path]:
    if out.exists():
        present = sorted(path.name for path in out.iterdir() if path.name != _BUILD)
        if present:
            raise InputError(f"{out}: not empty (holds {present[0]}): give --out a new folder")
    build = out / _BUILD
    shutil.rmtree(build, ignore_errors=True)
    made = [each for each in (out, *out.parents) if not each.exists()]
    build.mkdir(parents=True)
    try:
        yield build
    except InputError:
        shutil.rmtree(build)
        for folder in made:
            folder.rmdir()
        raise
    for path in sorted(build.iterdir()):
        path.rename(out / path.name)
    build.rmdir()
