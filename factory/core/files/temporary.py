"""Folders for what is kept on disk meanwhile; where there can be none, that is told in words."""

import contextlib
import functools
import itertools
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from factory.core.errors import StoreError
from factory.core.files.edge import describe_failure
from factory.core.notes import tell

PREFIX = "factory-"
LOCK = ".in-use"
"""File of a folder that its process holds locked; the system lets go of it with the process."""
YOUNG = 60.0
"""Seconds for which a folder is left alone: its lock may just be about to be taken."""
MOST = 64
"""Folders of killed processes that are removed at a time."""


def make_temporary(name: str) -> "tempfile.TemporaryDirectory[str]":
    """Makes an empty folder of this machine, which goes with the object that is returned.

    What a killed process left is removed by the first that makes one after it, and told.

    Args:
        name: what the folder is for.

    Raises:
        StoreError: there is no room for it, or no place.
    """
    try:
        remove_left(tempfile.gettempdir())
        made = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{name}-")
        _hold(made)
    except FileNotFoundError as error:  # none of the folders that it may be in can be written
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"temporary files: {error.strerror}{where}: have TMPDIR name a folder that can be "
            "written and has room, then run the same command again"
        ) from error
    except OSError as error:
        raise describe_failure("temporary files (TMPDIR)", error, is_local=True) from error
    return made


def _hold(made: "tempfile.TemporaryDirectory[str]") -> None:
    """Locks a folder for as long as its object, or this process, lives."""
    if sys.platform == "win32":  # it removes no open file: what is left stays
        return
    import fcntl

    lock = os.open(Path(made.name) / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    weakref.finalize(made, os.close, lock)
    with contextlib.suppress(OSError):  # no locks here: nobody takes it for one of the dead
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.cache
def remove_left(parent: str) -> None:
    """Removes the folders of ours that processes which were killed left there, once in a process.

    Raises:
        OSError: there is no such folder.
    """
    gone = 0
    for folder in itertools.islice(_lock_left(Path(parent)), MOST):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            gone += 1
            continue
        with contextlib.suppress(OSError):  # so that it is found again
            (folder / LOCK).touch()
        tell(f"{folder}: left by a killed process, and cannot be removed whole: remove it yourself")
    if gone:
        tell(f"{parent}: temporary folders that killed processes had left were removed: {gone}")


def _lock_left(parent: Path) -> Iterator[Path]:
    """Yields each folder of ours that nobody holds, while it is held."""
    if sys.platform == "win32":
        return
    import fcntl

    for folder in sorted(parent.glob(f"{PREFIX}*")):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # none of these, or another user's
            continue
        try:
            told = os.fstat(lock)
            if told.st_uid == os.getuid() and time.time() - told.st_mtime > YOUNG:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
        except OSError:  # its process lives
            continue
        finally:
            os.close(lock)
