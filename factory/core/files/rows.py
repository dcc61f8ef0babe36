"""Numbers in a file, a row at a time, as they come: memory holds none of them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

from factory.core.files.edge import Edge
from factory.core.late import NDArray, np

_BLOCK = 8192
"""Rows that are averaged at a time."""


class Rows(Protocol):
    """Rows that are read in part, wherever they lie."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns the (stop - start, width) rows that follow each other."""
        ...

    def pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns the (N, width) rows of any places."""
        ...


class HeldRows:
    """Rows of an array, (N, width)."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.count = values, len(values)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns rows that follow each other."""
        return self.values[start:stop]

    def pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns the rows of any places."""
        return self.values[rows]


def hold(values: NDArray[Any] | Rows) -> Rows:
    """Returns rows, of an array or as they are."""
    return HeldRows(values) if isinstance(values, np.ndarray) else values


def iterate_rows(rows: Rows, block: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields the place of the first of each block of rows, and the rows."""
    for start in range(0, rows.count, block):
        yield start, rows.read(start, min(start + block, rows.count))


def average_rows(
    rows: Rows, power: int = 1, centre: NDArray[np.float64] | float = 0.0
) -> NDArray[np.float64]:
    """Returns the (D,) mean of a power of rows less a centre: that of numpy, bit for bit."""
    total: NDArray[np.float64] | None = None
    for _, block in iterate_rows(rows, _BLOCK):
        values = (np.asarray(block, np.float64) - centre) ** power
        values = values if total is None else np.concatenate([total[None], values])
        total = values.sum(axis=0)
    assert total is not None
    return np.asarray(total / rows.count)


class RowFile:
    """Rows of one width and type in a file, which `add` makes longer.

    Args:
        path: of a new file, or of one that holds rows.
        count: rows that it holds.

    Attributes:
        dtype: of the numbers.
        width: numbers of a row.
        count: rows that it holds, or that were added.

    Raises:
        StoreError: the disk has no room or cannot be written, here and in `add`; the file cannot be
            read, or ends too early.
    """

    dtype: type[np.generic]
    width: int = 1

    def __init__(self, path: Path, count: int = 0) -> None:
        self.path, self.count = path, count
        if not count:
            with self._edge():
                path.touch()

    def add(self, rows: NDArray[Any]) -> None:
        """Appends (N, ...) rows."""
        data = np.ascontiguousarray(rows, self.dtype)
        with self._edge(), self.path.open("r+b") as stream:
            stream.seek(self.count * self._size)  # over what a write that failed left
            stream.write(data.data)  # not `tofile`, which tells not why it fails
        self.count += len(rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns the (stop - start, width) rows that follow each other."""
        found = np.empty((stop - start, self.width), self.dtype)
        with self._edge(), self.path.open("rb") as stream:
            self._fill(stream, start, found)
        return found

    def pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns the (N, width) rows of any places; those that follow each other in one go.

        Not through a map of the file, whose pages count as memory of ours, whole surroundings of
        each row.
        """
        found = np.empty((len(rows), self.width), self.dtype)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        begin = 0
        with self._edge(), self.path.open("rb") as stream:
            for end in ends if len(rows) else ():
                self._fill(stream, int(rows[begin]), found[begin:end])
                begin = end
        return found

    @property
    def _size(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    def _fill(self, stream: BufferedReader, first: int, found: NDArray[Any]) -> None:
        """Reads rows from the first on; the stream's buffer reads on until all is there."""
        stream.seek(first * self._size)
        if stream.readinto(found.data) != found.nbytes:
            raise OSError(f"ends before row {first + len(found) - 1}")

    def _edge(self) -> Edge:
        return Edge(str(self.path.parent), self.path.name, is_local=True)
