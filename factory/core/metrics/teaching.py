"""What a set's newest images change of how well a classifier that learns from it tells real ones.

The classifier is Fisher's linear discriminant with equal priors (Hastie, Tibshirani and Friedman
2009, section 4.3): in closed form, of means and one covariance, so that nothing is drawn and images
need not be kept. What counts is the balanced accuracy on real images: the mean over classes of the
mean over patients of the share that is told right.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.metrics.growing import GROUPS, Growth
from factory.core.stats.intervals import Interval, find_quantile

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

SHRINKAGE = 0.1
"""Share of the identity in the correlations within classes: few images can be learnt from as well
(Friedman 1989, JASA 84, equation 18)."""
SETTLED = 6
"""Decimals of what a class is chosen by, so that last bits decide nothing."""
_MOST_PATIENTS = 10**8


class TaughtSet:
    """A set that grows, and what is told of real images by what learns from it.

    Args:
        real: (M, D) features of real images.
        labels: (M,) their classes, from 0.
        units: (M,) their patients, from 0; of images whose patients are not told, the images.
        blocks: that were without an image so far.

    Attributes:
        blocks: how often images were added, or could have been.
    """

    def __init__(self, real: AnyFloats, labels: Indices, units: Indices, blocks: int = 0) -> None:
        values = np.asarray(real, np.float64)
        self._mean, spread = values.mean(axis=0), values.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)  # sums of few digits; decides nothing
        self._real, self._labels, self._units = self._scale(values), labels, units
        self._sums = self._before = _Sums.begin(int(labels.max()) + 1, values.shape[1])
        self.blocks = blocks

    def add(self, features: AnyFloats, labels: Indices) -> None:
        """Adds (N, D) features of the newest images, and (N,) their classes."""
        self._before = self._sums
        self._sums = self._before.add(self._scale(features), labels)
        self.blocks += 1

    def compare(self, level: float, wanted: Sequence[int]) -> Growth | None:
        """Returns what the newest images change of the balanced accuracy.

        Args:
            level: of the interval.
            wanted: classes that go on: each must be among the newest images.

        Returns:
            None where a class had, or one that goes on got, fewer than `GROUPS` images.
        """
        new = self._sums.counts - self._before.counts
        if min([self._before.counts.min(), *(new[each] for each in wanted)]) < GROUPS:
            return None
        before, after = (self._average(self._tell(each)) for each in (self._before, self._sums))
        accuracy, later = (float(np.nanmean(each, axis=0).mean()) for each in (before, after))
        return Growth(accuracy, later, bound_change(after - before, level))

    def _scale(self, features: AnyFloats) -> Floats:
        values = np.asarray(features, np.float64).reshape(-1, len(self._mean))
        return np.asarray((values - self._mean) / self._spread)

    def _tell(self, sums: "_Sums") -> NDArray[np.bool_]:
        """Returns (M,) whether each real image is told right after learning from images."""
        means = sums.totals / sums.counts[:, None]
        between = (means.T * sums.counts) @ means
        within = (sums.squares - between) / sums.counts.sum()
        scale = np.sqrt(np.maximum(np.diag(within), 0.0))
        scale = np.where(scale > 10.0**-SETTLED, scale, 1.0)
        shrunk = (1 - SHRINKAGE) * within / np.outer(scale, scale) + SHRINKAGE * np.eye(len(scale))
        means = means / scale
        slopes = np.linalg.solve(shrunk, means.T)
        offsets = 0.5 * (means.T * slopes).sum(axis=0)
        scores = np.round(self._real / scale @ slopes - offsets, SETTLED)
        return np.asarray(scores.argmax(axis=1) == self._labels)

    def _average(self, right: NDArray[np.bool_]) -> Floats:
        """Returns (P, C) shares of images told right, of each patient and class; NaN: no image."""
        shape = int(self._units.max()) + 1, len(self._sums.counts)
        count, told = np.zeros(shape), np.zeros(shape)
        np.add.at(count, (self._units, self._labels), 1.0)
        np.add.at(told, (self._units, self._labels), right)
        return np.where(count > 0, told / np.maximum(count, 1.0), np.nan)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Images of each class (C,), sums of their features (C, D), and of the squares (D, D)."""

    counts: Floats
    totals: Floats
    squares: Floats

    @classmethod
    def begin(cls, classes: int, dim: int) -> "_Sums":
        return cls(np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim)))

    def add(self, values: Floats, labels: Indices) -> "_Sums":
        marks = np.eye(len(self.counts))[labels]
        return _Sums(
            self.counts + marks.sum(axis=0),
            self.totals + marks.T @ values,
            self.squares + values.T @ values,
        )


def bound_change(changes: Floats, level: float) -> Interval:
    """Returns the interval of a change of balanced accuracy over patients, paired.

    To the patients of each class two are added: one who changes nothing, and half of one who gains
    all and of one who loses all (Agresti and Min 2005, Statistics in Medicine 24, for pairs). So
    few patients of whom nothing changed are no proof that nothing would of others. Patients of
    several classes count once (linearised); Student's distribution has one degree of freedom less
    than the class of fewest patients has of these.

    Args:
        changes: (P, C) change of the share told right, of each patient and class; NaN: no image.
        level: of the interval.

    Returns:
        The change, and the interval about it drawn in towards 0 by the patients added.
    """
    patients = np.isfinite(changes).sum(axis=0)
    classes, padded = len(patients), patients + 2
    mean = np.nansum(changes, axis=0) / padded
    parts = np.nansum((changes - mean) / padded, axis=1)
    added = ((1 + 2 * mean**2) / padded**2).sum()
    spread = math.sqrt(float((parts**2).sum() + added)) / classes
    half, centre = find_quantile(level, int(patients.min()) - 1) * spread, float(mean.mean())
    return Interval(float(np.nanmean(changes, axis=0).mean()), centre - half, centre + half)


def find_least_width(patients: Sequence[int], level: float) -> float:
    """Returns the half-width of the interval where no patient's images are told otherwise.

    Args:
        patients: of each class, 2 at least.
        level: of the interval.
    """
    added = math.sqrt(sum(1 / (count + 2) ** 2 for count in patients)) / len(patients)
    return find_quantile(level, min(patients) - 1) * added


def count_needed(classes: int, tolerance: float, level: float) -> int:
    """Returns the patients of each class that an interval as narrow as a tolerance needs."""
    counts = range(2, _MOST_PATIENTS)
    fits = bisect_left(
        counts, True, key=lambda each: find_least_width([each] * classes, level) <= tolerance
    )
    return counts[min(fits, len(counts) - 1)]
