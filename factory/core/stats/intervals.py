"""Means with bootstrap intervals, alone and paired."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError
from factory.core.hashing import derive_seed

ROUNDS = 2000
LEVEL = 0.95
_DRAWN = 2_000_000
"""Values drawn at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the percentile interval of its bootstrap (Efron and Tibshirani 1993, ch. 13)."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Returns mean, low and high."""
        return asdict(self)


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.floating],
    seed: int = 0,
    weights: Sequence[float] | NDArray[np.floating] | None = None,
) -> Interval:
    """Returns the mean of the values and its 95 % interval over resampled values.

    Args:
        values: (N,), one per independent unit (a draw of shots, an image, a block of images).
        seed: of the resampling.
        weights: (N,), above 0, e.g. the images in each block; default: all the same.

    Raises:
        EvaluationError: no value, or one that is not finite.
    """
    given = np.asarray(values, np.float64)
    if given.ndim != 1 or len(given) == 0 or not np.isfinite(given).all():
        raise EvaluationError(f"an interval needs finite numbers, got {given.tolist()[:5]}")
    counts = np.ones(len(given)) if weights is None else np.asarray(weights, np.float64)
    draw = np.random.default_rng(derive_seed(seed, "bootstrap", len(given)))
    means: list[float] = []
    while len(means) < ROUNDS:  # in blocks: memory does not grow with the images
        block = min(ROUNDS - len(means), max(1, _DRAWN // len(given)))
        rows = draw.integers(0, len(given), (block, len(given)))
        means.extend((given * counts)[rows].sum(axis=1) / counts[rows].sum(axis=1))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.average(given, weights=counts)), float(low), float(high))


def bootstrap_difference(
    first: Sequence[float] | NDArray[np.floating],
    second: Sequence[float] | NDArray[np.floating],
    seed: int = 0,
    weights: Sequence[float] | NDArray[np.floating] | None = None,
) -> Interval:
    """Returns the mean of `first - second`, unit by unit, and its 95 % interval.

    Args:
        first: (N,), in the order of the units.
        second: (N,), of the same units.
        seed: of the resampling.
        weights: (N,), as in `bootstrap_mean`.

    Raises:
        EvaluationError: other counts, or not finite.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        raise EvaluationError(f"paired values need one length, got {one.shape} and {other.shape}")
    return bootstrap_mean(one - other, seed, weights)
