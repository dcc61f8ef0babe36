"""Files by name below one root, through fsspec: local disk and object stores alike."""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.core.errors import MissingError, StoreError
from factory.core.files.atomic import create_file, move_file, replace_file
from factory.core.files.edge import EXTRAS, Edge, open_filesystem
from factory.core.files.streams import StoreStream
from factory.core.parquet import ParquetTable, open_parquet

_PATIENCE = 30.0
"""Seconds that a store may take to answer a question that moves no data."""
_SLOWEST = 100_000.0
"""Bytes per second below which a transfer counts as hung."""
_READING = 900.0
"""Seconds for one object to be read, whose size is not known before."""
_BLOCK = 1 << 20
"""Bytes that are read at least, where parts of an object are wanted."""
_TRIES = 5
"""Of a create that is refused although nothing is there."""
_CREATE = "create"


class FileStore:
    """Reads and writes whole objects below a root; a name appears complete or not at all.

    Local writes go to a temporary name, are fsynced and renamed, and the folder is fsynced; object
    stores put whole objects. Nothing here trusts a directory listing. Every call ends in bounded
    time, and raises a `StoreError` whatever the store's client raises.

    Args:
        url: a folder, or a URL of fsspec.

    Raises:
        InputError: nothing here speaks the URL's protocol.
    """

    def __init__(self, url: str) -> None:
        self.fs: Any
        self.fs, self.root = open_filesystem(url)
        self.url = url
        protocols = _list_protocols(self.fs)
        self.is_local = "file" in protocols
        self._is_remote = not EXTRAS.keys().isdisjoint(protocols)

    def resolve(self, name: str) -> str:
        """Returns the file system's own path of a name."""
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Tells whether the object is there."""
        with self._edge(name):
            return bool(self._ask("exists", self.resolve(name)))

    def read(self, name: str) -> bytes:
        """Returns the whole object.

        Raises:
            MissingError: it is not there.
            StoreError: it cannot be read.
        """
        with self._edge(name):
            data: bytes = self._ask("cat_file", self.resolve(name), seconds=_READING)
            return data

    def find(self, name: str) -> bytes | None:
        """Returns the whole object; None where it is not there: for small ones, such as markers.

        Raises:
            StoreError: it cannot be read.
        """
        if self.is_local:
            with self._edge(name):
                try:
                    # Not through fsspec, nor Path: a large run has markers by the 100,000.
                    with open(self.resolve(name), "rb", buffering=0) as stream:  # noqa: PTH123
                        return stream.read()
                except (FileNotFoundError, NotADirectoryError):
                    return None
        try:
            with self._edge(name):
                data: bytes = self._ask("cat_file", self.resolve(name))
                return data
        except MissingError:
            return None

    def hash(self, name: str) -> str:
        """Returns the sha256 of the object, which is read in blocks.

        Raises:
            MissingError: it is not there.
            StoreError: it cannot be read.
        """
        digest = hashlib.sha256()
        with self.open(name, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def write(self, name: str, data: bytes) -> None:
        """Writes the whole object durably.

        Raises:
            StoreError: disk full, permission, network; what was there before stays.
        """
        with self._edge(name):
            if self.is_local:
                replace_file(Path(self.resolve(name)), data)
            else:
                self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Writes a new object whole, unless one of this name is there: one of many callers wins.

        Atomic on disks and on S3, Google's and Azure's stores; elsewhere as good as it gets. A put
        whose answer was lost is found again by its content: give each caller content of its own.

        Returns:
            Whether the object is the caller's.

        Raises:
            StoreError: it cannot be written.
        """
        if self.is_local:
            with self._edge(name):
                return create_file(Path(self.resolve(name)), data)
        for left in reversed(range(_TRIES)):
            if self.exists(name):
                return self.read(name) == data
            try:
                with self._edge(name):
                    self._put(name, data, _CREATE)
                return True
            except StoreError:  # refused, as there is one now, or too many at a time
                if not left:
                    raise
        return False

    def open(self, name: str, mode: str, block_size: int | None = None) -> StoreStream:
        """Opens a stream; the caller closes it and renames what it wrote.

        `block_size` is the least that is asked of an object store at a time, in bytes.
        """
        path = self.resolve(name)
        edge = self._edge(name)
        with edge:
            if self.is_local and "w" in mode:
                self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            options = {"block_size": block_size} if self._is_remote and block_size else {}
            return StoreStream(self.fs.open(path, mode, **options), edge, mode)

    @contextmanager
    def open_parquet(
        self, name: str, buffer_size: int = 0, check_pages: bool = False
    ) -> Iterator[ParquetTable]:
        """Opens a parquet file, as `open_parquet` does, and reads no more of it than is wanted.

        Raises:
            MissingError: it is not there.
            DamageError: it is damaged.
            StoreError: it cannot be read.
        """
        options: dict[str, Any] = {"buffer_size": buffer_size, "check_pages": check_pages}
        place = f"{self.url}/{name}"
        if self.is_local:
            with open_parquet(Path(self.resolve(name)), place, **options) as table:
                yield table
            return
        with (
            self.open(name, "rb", _BLOCK) as stream,
            open_parquet(stream, place, **options) as table,
        ):
            yield table

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all it holds, if it is there."""
        with self._edge(name):
            if self._ask("exists", self.resolve(name)):
                self._ask("rm", self.resolve(name), seconds=_READING, recursive=True)

    def move(self, source: str, target: str) -> None:
        """Puts a file in the place of another; an object store copies it, and then removes it."""
        with self._edge(target):
            old, new = self.resolve(source), self.resolve(target)
            if self.is_local:
                move_file(Path(old), Path(new))
            else:
                self._ask("cp_file", old, new, seconds=_READING)
                self._ask("rm_file", old)

    def list(self, folder: str) -> tuple[str, ...]:
        """Lists the names in a folder, sorted: for display, never for what counts."""
        path = self.resolve(folder).rstrip("/")
        try:
            with self._edge(folder):
                self.fs.invalidate_cache()
                found = [entry.rstrip("/") for entry in self._ask("ls", path, detail=False)]
        except MissingError:
            return ()
        # Some stores list the folder itself, where an empty object marks it.
        return tuple(sorted(entry.rsplit("/", 1)[-1] for entry in found if entry != path))

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Lists all files below a folder with their bytes: for comparing, never for what counts."""
        with self._edge(folder):
            self.fs.invalidate_cache()
            root = self.root.rstrip("/")
            below = f"{root}/{folder}" if folder else root
            if not self._ask("exists", below):
                return {}
            found = self._ask("find", below, seconds=_READING, detail=True)
            return {
                path.removeprefix(f"{root}/"): int(each["size"]) for path, each in found.items()
            }

    def _edge(self, name: str) -> Edge:
        return Edge(self.url, name, self.is_local)

    def _put(self, name: str, data: bytes, mode: str) -> None:
        options: dict[str, Any] = {} if mode != _CREATE else {"mode": _CREATE}
        if options and "mode" not in inspect.signature(self.fs.pipe_file).parameters:
            options = {"overwrite": False}  # so called by adlfs
        seconds = _PATIENCE + len(data) / _SLOWEST
        self._ask("pipe_file", self.resolve(name), data, seconds=seconds, **options)

    def _ask(
        self, method: str, *arguments: Any, seconds: float | None = None, **options: Any
    ) -> Any:
        """Calls a method of the file system, for so long at most where it can be said how long."""
        if not self._is_remote:
            return getattr(self.fs, method)(*arguments, **options)
        import fsspec.asyn

        call = getattr(self.fs, f"_{method}")
        return fsspec.asyn.sync(
            self.fs.loop, call, *arguments, timeout=seconds or _PATIENCE, **options
        )


def _list_protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
