"""How near a feature lies to real ones: realism score, k-NN distance and authenticity."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from factory.core.late import NDArray, np

Floats: TypeAlias = "NDArray[np.float64]"

NEAREST = 1e-3
"""Distances under this share of a radius, or of the unit, count as this share, so that copies give
large numbers and not infinite ones."""
ROUNDING = 1e-9
"""Relative room when distances that were computed in two orders are compared."""
_BLOCK = 512


class Near(NamedTuple):
    """Scores of M features against a real set, each (M,) float64; see `RealNeighbours`."""

    realism: Floats
    neighbour_distance: Floats
    authenticity: Floats


class RealNeighbours:
    """Real features and the distances among them; every query is computed by itself.

    Notation: d(x, y) Euclidean distance, r the real features, NN_k(r) the k-th nearest other one.

    - realism, eq. 3 of Kynkaanniemi et al. 2019 (arXiv 1904.06991): max over r of
      d(r, NN_k(r)) / d(x, r), over the half of r with the smallest radii d(r, NN_k(r)), as they
      prune. At least 1: inside the estimated manifold. Higher is more real; at most 1 / `NEAREST`.
    - neighbour_distance: d(x, its k-th nearest r), in units of the median of d(r, NN_k(r)). Lower
      is more real; 1 is usual.
    - authenticity, after Alaa et al. 2022 (arXiv 2102.08921): d(x, r*) / d(r*, NN_1(r*)) for the
      nearest r* of x. They call x authentic where it exceeds 1. That is a rule for sets: of new
      real images about half lie below 1, copies near 0.

    Args:
        real: (N, D) features, N > `neighbours` + 1.
        neighbours: k.
    """

    def __init__(self, real: Floats, neighbours: int) -> None:
        self.real, self.k = real, neighbours
        self._squares = np.einsum("nd,nd->n", real, real)
        near = np.empty((len(real), neighbours + 1))
        for start in range(0, len(real), _BLOCK):
            block = self._measure_block(start)
            near[start : start + len(block)] = np.sort(
                np.partition(block, neighbours, axis=1)[:, : neighbours + 1], axis=1
            )
        self._near = near
        """(N, k + 1) distances to the nearest others, ascending."""
        self.unit = float(np.median(near[:, neighbours - 1]))
        self._kept = np.flatnonzero(near[:, neighbours - 1] <= self.unit)
        self._radii = near[self._kept, neighbours - 1]

    def measure(self, query: Floats) -> Floats:
        """Returns (N,) distances from one (D,) feature to each real one."""
        squares = self._squares - 2.0 * (self.real @ query) + query @ query
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))

    def score(self, queries: Floats) -> Near:
        """Scores (M, D) features of images that are not in the set."""
        floor = NEAREST * self.unit
        found = np.empty((3, len(queries)))
        for row, query in enumerate(queries):
            distances = self.measure(query)
            nearest = int(distances.argmin())
            found[0, row] = self._find_realism(distances[self._kept], self._radii)
            found[1, row] = np.partition(distances, self.k - 1)[self.k - 1] / self.unit
            found[2, row] = distances[nearest] / max(self._near[nearest, 0], floor)
        return Near(*found)

    def leave_one_out(self) -> Near:
        """Scores each real feature as if it were not in the set; only the unit stays."""
        count, k, floor = len(self.real), self.k, NEAREST * self.unit
        found = np.empty((3, count))
        for start in range(0, count, _BLOCK):
            for row, distances in enumerate(self._measure_block(start), start):
                # An image that is among another's k nearest leaves it with the next one.
                leaves = distances <= self._near[:, k - 1] * (1.0 + ROUNDING)
                radii = np.where(leaves, self._near[:, k], self._near[:, k - 1])
                others = np.arange(count) != row
                kept = others & (radii <= np.median(radii[others]))
                nearest = int(distances.argmin())
                is_its = distances[nearest] <= self._near[nearest, 0] * (1.0 + ROUNDING)
                own = self._near[nearest, int(is_its)]
                found[0, row] = self._find_realism(distances[kept], radii[kept])
                found[1, row] = self._near[row, k - 1] / self.unit
                found[2, row] = distances[nearest] / max(own, floor)
        return Near(*found)

    def find_nearest(self, query: Floats, count: int) -> list[tuple[int, float]]:
        """Returns (position, distance in units of the median k-NN distance), nearest first."""
        distances = self.measure(query)
        order = np.argsort(distances, kind="stable")[:count]
        return [(int(row), float(distances[row] / self.unit)) for row in order]

    def _measure_block(self, start: int) -> NDArray[np.float64]:
        """Returns (B, N) distances from the features at `start` on; infinite to themselves."""
        rows = range(start, min(start + _BLOCK, len(self.real)))
        block = np.stack([self.measure(self.real[row]) for row in rows])
        block[np.arange(len(block)), list(rows)] = np.inf
        return np.asarray(block)

    @staticmethod
    def _find_realism(distances: Floats, radii: Floats) -> Any:
        return (radii / np.maximum(distances, NEAREST * radii + 1e-300)).max()
