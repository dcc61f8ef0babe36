"""Keys in a file, to find those that are there more than once: memory holds a part of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PART = 1 << 22
"""Keys that are sorted at a time, about."""
_READ = 1 << 20


class KeyFile:
    """64-bit keys, spread evenly over their range, as they are added.

    Args:
        path: of a new file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        path.touch()

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Appends keys."""
        with self.path.open("ab") as stream:
            keys.tofile(stream)
        self.count += len(keys)

    def find_repeated(self) -> frozenset[int]:
        """Returns the keys that were added more than once."""
        bits = max(self.count // _PART, 1).bit_length() - 1
        found: set[int] = set()
        for prefix in range(1 << bits):
            keys = self._read(bits, prefix)
            keys.sort()
            found.update(keys[1:][keys[1:] == keys[:-1]].tolist())
        return frozenset(found)

    def _read(self, bits: int, prefix: int) -> NDArray[np.uint64]:
        """Returns the keys whose first bits are these."""
        if not bits:
            return np.fromfile(self.path, np.uint64)
        parts = []
        for start in range(0, self.count, _READ):
            part = np.fromfile(self.path, np.uint64, _READ, offset=8 * start)
            parts.append(part[part >> np.uint64(64 - bits) == prefix])
        return np.concatenate(parts)
