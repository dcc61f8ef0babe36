"""Tar archives written from start to end: the same members give the same bytes, on any day."""

import tarfile
from typing import Any

_MODE, _OWNER = 0o444, "bigdata"
"""As `webdataset.TarWriter` has them, whose bytes with `mtime=0` these are."""
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)
"""Fields of a header (POSIX ustar)."""
_LONGEST, _LARGEST = 100, 8**11
"""Name and size up to which a header of one block says all."""


class TarStream:
    """Writes members to a stream; `close` ends the archive and leaves the stream open."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._size = stream, 0

    def write(self, members: dict[str, bytes]) -> None:
        """Appends members, in their order: name -> content."""
        parts = []
        for name, data in members.items():
            parts += [_build_header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE)]
        self._write(b"".join(parts))

    def close(self) -> None:
        """Writes the end: two empty blocks, filled up to a whole record."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._size % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._size += len(data)


def _describe(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, _MODE, 0
    info.uname = info.gname = _OWNER
    return info.tobuf(tarfile.PAX_FORMAT)


def _build_header(name: str, size: int) -> bytes:
    """Returns what `tarfile` gives; for plain names and sizes only what differs is filled in."""
    if not name.isascii() or len(name) >= _LONGEST or size >= _LARGEST:
        return _describe(name, size)
    called, digits = name.encode(), b"%011o" % size
    header = bytearray(_PLAIN)
    header[: len(called)] = called
    header[_SIZE] = digits + b"\0"
    header[_SUM] = b"%06o\0 " % (_PLAIN_SUM + sum(called) + sum(digits))
    return bytes(header)


def _blank_fields() -> bytes:
    header = bytearray(_describe("", 0))
    header[_NAME], header[_SIZE] = bytes(100), bytes(12)
    header[_SUM] = b" " * 8
    return bytes(header)


_PLAIN = _blank_fields()
_PLAIN_SUM = sum(_PLAIN)
