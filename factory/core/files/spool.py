"""Objects in a temporary file, in the order that they came: memory holds the ones at hand."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.core.files.edge import describe_failure

ItemT = TypeVar("ItemT")


class Spool(Iterable[ItemT], Generic[ItemT]):
    """Objects that can be gone through again and again; they lie in TMPDIR and go with this one.

    Args:
        pack: returns what JSON can hold of an object.
        unpack: returns an equal object from that.
    """

    def __init__(self, pack: Callable[[ItemT], Any], unpack: Callable[[Any], ItemT]) -> None:
        self._pack, self._unpack = pack, unpack
        self._folder = tempfile.TemporaryDirectory(prefix="factory-spool-")
        self._path = Path(self._folder.name) / "lines"
        self._path.touch()

    def extend(self, items: Iterable[ItemT]) -> None:
        """Appends objects.

        Raises:
            StoreError: the temporary folder has no room.
        """
        lines = (f"{json.dumps(self._pack(each))}\n" for each in items)
        with self._path.open("a", encoding="ascii") as stream:
            for line in lines:
                try:
                    stream.write(line)
                except OSError as error:
                    raise describe_failure(str(self._path), error, is_local=True) from error

    def __iter__(self) -> Iterator[ItemT]:
        with self._path.open(encoding="ascii") as stream:
            for line in stream:
                yield self._unpack(json.loads(line))
