"""Numbers in a file, a row at a time, as they come: memory holds none of them."""

import mmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class RowFile:
    """Rows of one width and type in a file, which `add` makes longer.

    Args:
        path: of a new file, or of one that holds rows.
        count: rows that it holds.

    Attributes:
        dtype: of the numbers.
        width: numbers of a row.
        count: rows that it holds, or that were added.
    """

    dtype: ClassVar[type[np.generic]]
    width: ClassVar[int] = 1

    def __init__(self, path: Path, count: int = 0) -> None:
        self.path, self.count = path, count
        if not count:
            path.touch()

    def add(self, rows: NDArray[Any]) -> None:
        """Appends (N, ...) rows."""
        with self.path.open("ab") as stream:
            np.asarray(rows, self.dtype).tofile(stream)
        self.count += len(rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns the (stop - start, width) rows that follow each other."""
        offset = start * self.width * np.dtype(self.dtype).itemsize
        found = np.fromfile(self.path, self.dtype, (stop - start) * self.width, offset=offset)
        return found.reshape(-1, self.width)

    def pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns the (N, width) rows of any places."""
        opened = np.memmap(self.path, self.dtype, "r", shape=(self.count, self.width))
        found = np.asarray(opened[rows])
        opened._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # pages count as ours
        return found
