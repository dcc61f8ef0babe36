"""Near-duplicates: images of a set that nearly repeat an earlier one; numpy only."""

import numpy as np
from numpy.typing import NDArray

from factory.core.thumbnails import DIM, Descriptors, list_symmetries
from factory.data.records import SCORE_DECIMALS

_QUERY_BLOCK = 1024
_STORED_BLOCK = 16384
PAIR_BLOCK = 1024
"""Pairs that are compared in full at a time: 8 kB of each and more."""
_DENSE_SHARE = 0.005
"""Pairs left by the bound above which plain matrix products are cheaper than one by one."""
SLACK = 4e-3
"""Room for float16 descriptors, whose length is 1 within 5e-4, in the bound below."""


class SimilarityIndex:
    """Images kept so far; tells which further ones are too similar to one of them.

    Two images are near-duplicates when the similarity of their descriptors, over the eight flips
    and quarter turns and rounded to 4 decimals, exceeds `max_similarity`.

    Comparing all pairs in eight poses is spared by a bound. The averages over the orbits of the
    symmetry group keep lengths from growing and are the same for every pose, so that similarity
    <= 1 - |a(x) - a(y)|^2 / 2 for descriptors of length 1; only pairs that pass it (36 numbers
    instead of 8 x 256) are compared exactly. No near-duplicate is missed; a low `max_similarity`
    only costs time.
    """

    def __init__(self, max_similarity: float) -> None:
        self.max_similarity = max_similarity
        self._descriptors = np.zeros((1024, DIM), np.float16)
        self._averages = np.zeros((1024, len(ORBITS) + 1), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, descriptors: Descriptors) -> None:
        """Keeps (N, 256) descriptors, unseen whether they repeat anything."""
        needed = self._count + len(descriptors)
        while needed > len(self._descriptors):
            self._descriptors = np.concatenate([self._descriptors, self._descriptors])
            self._averages = np.concatenate([self._averages, self._averages])
        self._descriptors[self._count : needed] = descriptors
        self._averages[self._count : needed] = _average_orbits(descriptors)
        self._count = needed

    def find(self, descriptors: Descriptors) -> NDArray[np.int64]:
        """Looks up (N, 256) descriptors.

        Returns:
            (N,) position of the first kept near-duplicate of each, in the order of adding, or -1.
        """
        found = np.full(len(descriptors), -1, np.int64)
        for first in range(0, len(descriptors), _QUERY_BLOCK):
            block = descriptors[first : first + _QUERY_BLOCK]
            averages = _average_orbits(block)
            open_rows = np.arange(len(block))
            for start in range(0, self._count, _STORED_BLOCK):
                stop = min(start + _STORED_BLOCK, self._count)
                rows, columns = _pair(
                    block[open_rows],
                    averages[open_rows],
                    self._descriptors[start:stop],
                    self._averages[start:stop],
                    self.max_similarity,
                )
                hit, position = np.unique(rows, return_index=True)
                found[first + open_rows[hit]] = start + columns[position]
                open_rows = np.delete(open_rows, hit)
        return found


def find_near(
    first: Descriptors, second: Descriptors, max_similarity: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the positions in (N, 256) and (M, 256) descriptors of all near-duplicates, sorted."""
    return _pair(first, _average_orbits(first), second, _average_orbits(second), max_similarity)


def _pair(
    queries: Descriptors,
    query_averages: NDArray[np.float32],
    stored: Descriptors,
    stored_averages: NDArray[np.float32],
    max_similarity: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the (query, stored) positions of all near-duplicates, sorted."""
    least = max_similarity - SLACK
    doubled = 2.0 * query_averages
    doubled[:, -1] = -1.0
    gap = doubled @ stored_averages.T  # 2 a(x) a(y) - |a(y)|^2
    gap -= query_averages[:, -1:]
    possible = gap >= 2.0 * (least - 1.0)
    some = np.flatnonzero(possible.any(axis=0))
    if np.count_nonzero(possible) > _DENSE_SHARE * len(queries) * max(len(some), 1):
        turned = queries.astype(np.float32)[:, list_symmetries()]
        wide = stored[some].astype(np.float32).T
        close = np.zeros((len(queries), len(some)), bool)
        for pose in range(len(list_symmetries())):
            close |= turned[:, pose] @ wide >= least
        possible[:, some] &= close
    rows, columns = np.nonzero(possible)
    confirmed = np.zeros(len(rows), bool)
    for start in range(0, len(rows), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        values = compare_pairs(queries[rows[part]], stored[columns[part]])
        confirmed[part] = values > max_similarity
    return rows[confirmed], columns[confirmed]


def compare_pairs(first: Descriptors, second: Descriptors) -> NDArray[np.float64]:
    """Returns (N,) similarities of corresponding rows over all symmetries, rounded."""
    left, right = first.astype(np.float64), second.astype(np.float64)
    poses = [(left[:, order] * right).sum(axis=1) for order in list_symmetries()]
    return np.asarray(np.round(np.max(poses, axis=0), SCORE_DECIMALS))


def _average_orbits(descriptors: Descriptors) -> NDArray[np.float32]:
    """Returns (N, 37): 36 sums over orbits, scaled to keep lengths, and their squared length."""
    sums = descriptors.astype(np.float32) @ ORBITS.T
    return np.concatenate([sums, (sums * sums).sum(1, keepdims=True)], axis=1)


def _list_orbits() -> NDArray[np.float32]:
    """Returns (36, 256) orthonormal rows, one for each orbit of grid cells."""
    least = list_symmetries().min(axis=0)
    orbits = (least[None] == np.unique(least)[:, None]).astype(np.float32)
    return np.asarray(orbits / np.sqrt(orbits.sum(1, keepdims=True)))


ORBITS = _list_orbits()
