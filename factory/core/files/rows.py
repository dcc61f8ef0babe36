"""Numbers in a file, a row at a time, as they come: memory holds none of them."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class RowFile:
    """Rows of one width and type in a file, which `add` makes longer.

    Args:
        path: of a new file.

    Attributes:
        dtype: of the numbers.
        count: rows that were added.
    """

    dtype: ClassVar[type[np.generic]]

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        path.touch()

    def add(self, rows: NDArray[Any]) -> None:
        """Appends (N, ...) rows."""
        with self.path.open("ab") as stream:
            np.asarray(rows, self.dtype).tofile(stream)
        self.count += len(rows)
