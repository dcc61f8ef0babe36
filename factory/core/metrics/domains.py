"""How far images have come from one domain to another."""

from __future__ import annotations

from typing import TypeAlias

from factory.core.late import NDArray, np

Features: TypeAlias = "NDArray[np.float32]"


class Passage:
    """The way from the mean of one domain to that of another, in standardised features.

    Args:
        source: (N, D) features of real images of the domain that is left.
        target: (M, D), of the one that is sought.

    Raises:
        ValueError: both have the same mean.
    """

    def __init__(self, source: Features, target: Features) -> None:
        spread = np.sqrt((source.var(0, dtype=np.float64) + target.var(0, dtype=np.float64)) / 2)
        self._scale = np.maximum(spread, 1e-6)
        self._start = source.mean(0, dtype=np.float64)
        self._way = (target.mean(0, dtype=np.float64) - self._start) / self._scale
        self._length = float(self._way @ self._way)
        if self._length < 1e-12:
            raise ValueError("both domains have the same mean features")

    def measure(self, features: Features) -> NDArray[np.float64]:
        """Returns (N,) shares of the way: 0 at the source's mean, 1 at the target's.

        The projection on the line through both means; each feature in units of its deviation within
        the domains.
        """
        moved = (features.astype(np.float64) - self._start) / self._scale
        return np.asarray(moved @ self._way / self._length)
