"""What a set's newest images change of its kernel distance to real ones, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from factory.core.late import NDArray, np
from factory.core.stats.intervals import Interval, find_quantile

Floats: TypeAlias = "NDArray[np.float64]"
AnyFloats: TypeAlias = "NDArray[np.floating[Any]]"

GROUPS = 20
"""Parts that the jackknife leaves out in turn: image i of a set lies in part i modulo this."""
WIDTH_FROM = 1000
"""Most real images that the width of the kernel is measured between."""
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Growth:
    """A figure of a set before and after its newest images.

    Attributes:
        before: without them.
        after: with them.
        change: above 0 for the better: share of a distance that they took away, or a difference.
    """

    before: float
    after: float
    change: Interval

    def round(self, decimals: int) -> Growth:
        """Returns it rounded, so that last bits decide nothing."""
        change = Interval(*(round(each, decimals) for each in self.change))
        return Growth(round(self.before, decimals), round(self.after, decimals), change)

    def is_within(self, tolerance: float) -> bool:
        """Whether the whole interval of the change lies within +- `tolerance`.

        That is a test of equivalence, two one-sided tests (Schuirmann 1987, J Pharmacokinet
        Biopharm 15): too few images to tell widen the interval, and do not pass for no change.
        """
        return -tolerance <= self.change.low and self.change.high <= tolerance


class GrowingSet:
    """A set that grows, and its squared kernel distance to real images (MMD, biased).

    The kernel is Gaussian, as wide as the median distance between real images (Gretton et al. 2012,
    JMLR 13, section 8), on features standardised by these: it is bounded, so that no few images far
    away decide, as they do by KID's cubic one. The biased estimate (there equation 5) is the
    distance of the sets as they are: a small one is farther away for being small, so that more
    images count as long as they help. Images are compared once with each other.

    Args:
        real: (M, D) features of real images.
        blocks: that were without an image so far.

    Attributes:
        blocks: how often images were added, or could have been.
    """

    def __init__(self, real: AnyFloats, blocks: int = 0) -> None:
        values = np.asarray(real, np.float64)
        self._mean, spread = values.mean(axis=0), values.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._real = (values - self._mean) / self._spread
        self._width = _find_median(self._real[:WIDTH_FROM]) or 1.0
        ones = np.ones((len(values), 1))
        total = self._sum_kernel(self._real, ones, self._real, ones)
        self._real_mean = float(total[0, 0]) / len(values) ** 2
        self._values = np.zeros((0, values.shape[1]), np.float32)
        self._sums = self._before = _Sums.begin()
        self.blocks = blocks

    def add(self, features: AnyFloats) -> None:
        """Adds (N, D) features of the newest images; of none, any empty array."""
        first = len(self._values)
        values = np.asarray(features, np.float64).reshape(-1, len(self._mean))
        new = (values - self._mean) / self._spread
        old_parts, parts = _mark(0, first), _mark(first, len(new))
        across = self._sum_kernel(new, parts, self._real, np.ones((len(self._real), 1)))[:, 0]
        inner = self._sum_kernel(new, parts, new, parts)
        if first:
            mixed = self._sum_kernel(self._values, old_parts, new, parts)
            inner = inner + mixed + mixed.T
        self._before = self._sums
        self._sums = self._before.add(parts.sum(axis=0), inner, across)
        self._values = np.concatenate([self._values, new.astype(np.float32)])
        self.blocks += 1

    def compare(self, level: float) -> Growth | None:
        """Returns what the newest images change; None where a part lacks images to leave out.

        The interval is a delete-group jackknife over images that were and that came, with
        Student's distribution (Shao and Wu 1989, Annals of Statistics 17).

        Args:
            level: of the interval.
        """
        if min(self._before.counts.min(), (self._sums.counts - self._before.counts).min()) < 1:
            return None
        before, after = self._measure(self._before), self._measure(self._sums)
        if not (before[0] > 0 and before.min() > 0):
            return None
        changes = 1.0 - after / before
        change, left_out = float(changes[0]), changes[1:]
        squares = float(((left_out - left_out.mean()) ** 2).sum())
        half = find_quantile(level, GROUPS - 1) * math.sqrt((GROUPS - 1) / GROUPS * squares)
        interval = Interval(change, change - half, change + half)
        return Growth(float(before[0]), float(after[0]), interval)

    def _sum_kernel(self, x: AnyFloats, x_parts: Floats, y: AnyFloats, y_parts: Floats) -> Floats:
        """Returns (P, Q) sums of the kernel over the images of each part of x and of y."""
        total = np.zeros((x_parts.shape[1], y_parts.shape[1]))
        for start in range(0, len(x), _BLOCK):
            rows = np.asarray(x[start : start + _BLOCK], np.float64)
            for begin in range(0, len(y), _BLOCK):
                columns = np.asarray(y[begin : begin + _BLOCK], np.float64)
                values = np.exp(_square_distances(rows, columns) / (-2.0 * self._width**2))
                summed = x_parts[start : start + _BLOCK].T @ values
                total += summed @ y_parts[begin : begin + _BLOCK]
        return total

    def _measure(self, sums: _Sums) -> Floats:
        """Returns (1 + GROUPS,) distances: of all, and with each part left out."""
        counts, inner, across = sums.counts, sums.inner, sums.across
        kept = np.concatenate([[counts.sum()], counts.sum() - counts])
        total = float(inner.sum())
        without = total - inner.sum(axis=0) - inner.sum(axis=1) + np.diag(inner)
        own = np.concatenate([[total], without]) / kept**2
        mixed = np.concatenate([[across.sum()], across.sum() - across]) / (kept * len(self._real))
        return np.asarray(own + self._real_mean - 2 * mixed)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Images by part, and sums of the kernel by parts: with each other, and with real images."""

    counts: Floats
    inner: Floats
    across: Floats

    @classmethod
    def begin(cls) -> _Sums:
        return cls(np.zeros(GROUPS), np.zeros((GROUPS, GROUPS)), np.zeros(GROUPS))

    def add(self, counts: Floats, inner: Floats, across: Floats) -> _Sums:
        return _Sums(self.counts + counts, self.inner + inner, self.across + across)


def _mark(first: int, count: int) -> Floats:
    """Returns (N, GROUPS) ones where an image lies in a part."""
    return np.eye(GROUPS)[np.arange(first, first + count) % GROUPS]


def _find_median(x: Floats) -> float:
    """Returns the median distance between different rows."""
    apart = np.sqrt(_square_distances(x, x))
    return float(np.median(apart[np.triu_indices(len(x), 1)]))


def _square_distances(x: Floats, y: Floats) -> Floats:
    """Returns (N, M) squared distances of rows."""
    lengths = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :]
    return np.asarray(np.maximum(lengths - 2.0 * x @ y.T, 0.0))
