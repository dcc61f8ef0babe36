"""Files by name below one root, through fsspec: local disk and object stores alike."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from factory.errors import StoreError


class FileStore:
    """Reads and writes whole objects below a root; a name appears complete or not at all.

    Local writes go to a temporary name, are fsynced and renamed, and the folder is fsynced; object
    stores put whole objects. Nothing here trusts a directory listing.
    """

    def __init__(self, url: str) -> None:
        self.fs: Any
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.url = url
        self.is_local = "file" in _list_protocols(self.fs)

    def resolve(self, name: str) -> str:
        """Returns the file system's own path of a name."""
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Tells whether the object is there."""
        with _wrap(self.url, name):
            return bool(self.fs.exists(self.resolve(name)))

    def read(self, name: str) -> bytes:
        """Returns the whole object.

        Raises:
            StoreError: it is not there or cannot be read.
        """
        with _wrap(self.url, name):
            data: bytes = self.fs.cat_file(self.resolve(name))
            return data

    def write(self, name: str, data: bytes) -> None:
        """Writes the whole object durably.

        Raises:
            StoreError: disk full, permission, network; what was there before stays.
        """
        with _wrap(self.url, name):
            if self.is_local:
                _write_local(Path(self.resolve(name)), data)
            else:
                self.fs.pipe_file(self.resolve(name), data)

    def open(self, name: str, mode: str) -> Any:
        """Opens a stream; the caller closes it and renames what it wrote."""
        path = self.resolve(name)
        with _wrap(self.url, name):
            if "w" in mode:
                self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            return self.fs.open(path, mode)

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all it holds, if it is there."""
        with _wrap(self.url, name):
            if self.fs.exists(self.resolve(name)):
                self.fs.rm(self.resolve(name), recursive=True)

    def move(self, source: str, target: str) -> None:
        """Puts `source` in the place of `target`, file or folder."""
        with _wrap(self.url, target):
            self.remove(target)
            if self.is_local:
                Path(self.resolve(target)).parent.mkdir(parents=True, exist_ok=True)
                Path(self.resolve(source)).replace(self.resolve(target))
            else:
                self.fs.mv(self.resolve(source), self.resolve(target), recursive=True)

    def list(self, folder: str) -> tuple[str, ...]:
        """Lists the names in a folder, sorted: for display, never for what counts."""
        with _wrap(self.url, folder):
            path = self.resolve(folder)
            if not self.fs.exists(path):
                return ()
            self.fs.invalidate_cache()
            return tuple(
                sorted(entry.rsplit("/", 1)[-1] for entry in self.fs.ls(path, detail=False))
            )


class HashedStream:
    """A stream to write to, from start to end, that knows the sha256 of what was written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        """Writes bytes; returns how many."""
        view = memoryview(data)
        self._digest.update(view)
        self._stream.write(view)
        return view.nbytes

    def flush(self) -> None:
        """Hands on what is buffered."""
        self._stream.flush()

    def close(self) -> None:
        """Closes the stream below."""
        self.closed = True
        self._stream.close()

    @property
    def sha256(self) -> str:
        """Hash of all that was written, 64 hex characters."""
        return self._digest.hexdigest()


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own for every writer: two workers may write one name, with equal content, at one time.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _list_protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


@contextlib.contextmanager
def _wrap(url: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{url}/{name}: {error.strerror or error}: free space or fix access, then run the same "
            "command again"
        ) from error
