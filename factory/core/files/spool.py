"""Objects in a temporary file, in the order that they came: memory holds the ones at hand."""

import io
import itertools
import json
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from factory.core.files.edge import Edge

ItemT = TypeVar("ItemT")
_ITEMS = 64
"""Written at a time."""
_BYTES = 1 << 15
"""Read at a time."""


class Spool(Iterable[ItemT], Generic[ItemT]):
    """Objects that can be gone through again and again; none of it outlives the process.

    They lie in TMPDIR, in a file without a name where the system has such: it goes with this one,
    and with a process that is killed.

    Args:
        pack: returns what JSON can hold of an object.
        unpack: returns an equal object from that.

    Raises:
        StoreError: the temporary folder cannot be written.
    """

    def __init__(self, pack: Callable[[ItemT], Any], unpack: Callable[[Any], ItemT]) -> None:
        self._pack, self._unpack = pack, unpack
        with self._edge():
            self._file = tempfile.TemporaryFile(prefix="factory-spool-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def extend(self, items: Iterable[ItemT]) -> None:
        """Appends objects.

        Raises:
            StoreError: the temporary folder has no room.
        """
        lines = (f"{json.dumps(self._pack(each))}\n" for each in items)
        while block := "".join(itertools.islice(lines, _ITEMS)):
            with self._edge():
                self._file.seek(0, io.SEEK_END)
                self._file.write(block.encode("ascii"))
                self._file.flush()

    def __iter__(self) -> Iterator[ItemT]:
        place, rest = 0, ""
        while block := self._read(place):
            place += len(block)
            *lines, rest = (rest + block.decode("ascii")).split("\n")
            for line in lines:
                yield self._unpack(json.loads(line))

    def _read(self, place: int) -> bytes:
        with self._edge():
            self._file.seek(place)
            return self._file.read(_BYTES)

    def _edge(self) -> Edge:
        return Edge("temporary files (TMPDIR)", "factory-spool", is_local=True)
