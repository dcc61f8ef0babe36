"""Keys in a file, to find those that are there more than once: memory holds a part of them."""

import numpy as np
from numpy.typing import NDArray

from factory.core.files.rows import RowFile

_PART = 1 << 22
"""Keys that are sorted at a time, about."""
_READ = 1 << 20


class KeyFile(RowFile):
    """64-bit keys, (N,), spread evenly over their range."""

    dtype = np.uint64

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
            return self.read(0, self.count)[:, 0]
        parts = []
        for start in range(0, self.count, _READ):
            part = self.read(start, min(start + _READ, self.count))[:, 0]
            parts.append(part[part >> np.uint64(64 - bits) == prefix])
        return np.concatenate(parts)
