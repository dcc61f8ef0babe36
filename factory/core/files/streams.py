"""Streams of a store: with errors of ours, and with the hash of what was written."""

import hashlib
import os
from typing import Any, Self

from factory.core.files.edge import Edge


class StoreStream:
    """A file that a file system opened; whatever it raises while it is used is a `StoreError`.

    What was written to a disk is fsynced before it is closed.
    """

    def __init__(self, stream: Any, edge: Edge, mode: str) -> None:
        self._stream, self._edge, self.mode = stream, edge, mode

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes; all that are left by default."""
        with self._edge:
            data: bytes = self._stream.read(size)
            return data

    def write(self, data: Any) -> int:
        """Writes bytes; returns how many."""
        with self._edge:
            self._stream.write(data)
            return memoryview(data).nbytes

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a place; returns it."""
        with self._edge:
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Returns the place."""
        with self._edge:
            return int(self._stream.tell())

    def flush(self) -> None:
        """Hands on what is buffered."""
        with self._edge:
            self._stream.flush()

    def close(self) -> None:
        """Ends it; an object store shows the object from now on."""
        with self._edge:
            if self._edge.is_local and "w" in self.mode and not self._stream.closed:
                self._stream.flush()
                os.fsync(self._stream.fileno())
            self._stream.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._stream.closed)

    def readable(self) -> bool:
        """Whether it was opened to be read."""
        return "r" in self.mode

    def writable(self) -> bool:
        """Whether it was opened to be written."""
        return "w" in self.mode

    def seekable(self) -> bool:
        """Whether one can go back in it."""
        return bool(self._stream.seekable())

    def __enter__(self) -> "StoreStream":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()


class HashedStream:
    """A stream to write to, from start to end, that knows sha256 and bytes of what was written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.closed = False
        self.size = 0
        self._is_dropped = False

    def write(self, data: Any) -> int:
        """Writes bytes; returns how many."""
        view = memoryview(data)
        self._digest.update(view)
        if not self._is_dropped:
            self._stream.write(view)
        self.size += view.nbytes
        return view.nbytes

    def drop(self) -> None:
        """Gives the file up: what a writer still says when it goes is let fall."""
        self._is_dropped = True

    def flush(self) -> None:
        """Hands on what is buffered."""
        if not self._is_dropped:
            self._stream.flush()

    def close(self) -> None:
        """Closes the stream below."""
        self.closed = True
        self._stream.close()

    @property
    def sha256(self) -> str:
        """Hash of all that was written, 64 hex characters."""
        return self._digest.hexdigest()


class NumberedFiles:
    """Files that rows are written into, one after the other; ended by `close`.

    As a context manager it closes itself, and after an error gives up the file at hand: writers of
    libraries would else write its end when they go, into the same full disk.

    Attributes:
        names: of the files begun.
        hashes: name -> sha256 of each file that is whole.
        sizes: likewise its bytes.
        rows: written so far.
        first: number of the first.
    """

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.names: list[str] = []
        self.hashes: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.rows = 0
        self._writer: Any = None
        self._stream: Any = None

    def close(self) -> None:
        """Ends the last file."""
        raise NotImplementedError

    def _end_file(self) -> None:
        self._writer.close()
        self._stream.close()
        self.hashes[self.names[-1]] = self._stream.sha256
        self.sizes[self.names[-1]] = self._stream.size
        self._writer = self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self.close()
        finally:
            if self._stream is not None:  # not ended: after an error
                self._stream.drop()
