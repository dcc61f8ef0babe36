"""Files of this machine, whole or not at all: written beside their place, fsynced and renamed."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factory.core.files.edge import Edge

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""What a disk without hard links says."""


@contextmanager
def write_atomically(path: Path, token: str = "") -> Iterator[Path]:
    """Yields a name beside `path` to write to; what stands there at the end takes its place.

    The folders above are made. Where the writing fails, what was there before stays.

    Args:
        path: of the file.
        token: of this writer, where several may write `path` at one time.

    Raises:
        OSError: disk full, permission.
    """
    with _stage(path, token) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    sync(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file of this machine durably, whole or not at all, with the folders above it.

    What is there and no regular file (`/dev/stdout`) is written to as it is.

    Raises:
        StoreError: disk full, permission; says what to do.
    """
    with Edge(str(path.absolute().parent), path.name, is_local=True):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            replace_file(path, data)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file that several may write at one time, with equal content.

    Raises:
        OSError: disk full, permission.
    """
    with write_atomically(path, secrets.token_hex(4)) as temporary:
        temporary.write_bytes(data)


def create_file(path: Path, data: bytes) -> bool:
    """Writes a file unless there is one: of many callers one wins.

    Returns:
        Whether the file is the caller's.

    Raises:
        OSError: disk full, permission.
    """
    with _stage(path, secrets.token_hex(4)) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
            sync(path)
    sync(path.parent)
    return True


def move_file(source: Path, target: Path) -> None:
    """Puts a file in the place of another.

    Raises:
        OSError: permission, or another disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    sync(target.parent)


@contextmanager
def _stage(path: Path, token: str) -> Iterator[Path]:
    """Yields a hidden name beside `path`; whatever is left under it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token}.tmp" if token else f".{path.name}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync(place: Path) -> None:
    """Has the disk keep a file or folder as it is."""
    opened = os.open(place, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
