"""Intervals: of shares (Wilson), of means by bootstrap, of whatever was resampled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from factory.core.errors import EvaluationError
from factory.core.hashing import derive_seed
from factory.core.late import NDArray, np

ROUNDS = 2000
LEVEL = 0.95
_DRAWN = 2_000_000
"""Values drawn at a time."""


class Interval(NamedTuple):
    """A figure and its interval."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Returns mean, low and high."""
        return self._asdict()


def find_quantile(level: float, freedom: float | None = None) -> float:
    """Returns the two-sided quantile of the normal, or of Student's distribution."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + level) / 2
    return float(ndtri(upper) if freedom is None else stdtrit(freedom, upper))


def compute_wilson(share: float, count: float, level: float = LEVEL) -> Interval:
    """Returns a share with its score interval (Wilson 1927, JASA 22:209).

    Of nothing the share is NaN, and anything from 0 to 1 is possible.

    Args:
        share: in [0, 1].
        count: images that it is of; an effective number need not be whole.
        level: of the interval.
    """
    if count == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = find_quantile(level)
    centre = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    whole = 1 + z**2 / count
    low, high = (centre - spread) / whole, (centre + spread) / whole
    return Interval(share, max(0.0, min(low, share)), min(1.0, max(high, share)))


def draw_rows(
    draw: np.random.Generator, count: int, rounds: int = ROUNDS
) -> Iterator[NDArray[np.int64]]:
    """Yields rounds of a bootstrap: (R, N) units drawn with replacement, in blocks.

    Args:
        draw: the generator.
        count: units N.
        rounds: of all blocks together.
    """
    most = max(1, _DRAWN // count)  # memory does not grow with the images
    for start in range(0, rounds, most):
        yield draw.integers(0, count, (min(most, rounds - start), count))


def draw_times(
    draw: np.random.Generator, counts: Sequence[int], rounds: int = ROUNDS, most: int = ROUNDS
) -> Iterator[list[NDArray[np.int64]]]:
    """Yields rounds as how often each unit is drawn, of several kinds apart from each other.

    Where every unit of one kind was measured with every unit of another (draws of shots, test
    images), this is the pigeonhole bootstrap of Owen 2007, arXiv 0711.1395.

    Args:
        draw: the generator.
        counts: units N of each kind.
        rounds: of all blocks together.
        most: rounds of a block.

    Returns:
        For each block (R, N) of each kind.
    """
    for start in range(0, rounds, most):
        block = min(most, rounds - start)
        yield [draw.multinomial(count, np.full(count, 1 / count), block) for count in counts]


def take_percentiles(value: float, samples: Sequence[float] | NDArray[np.floating]) -> Interval:
    """Returns a figure with the percentile interval of its bootstrap samples.

    Efron and Tibshirani 1993, ch. 13.

    Args:
        value: of all units once.
        samples: (R,) of the resampled units.
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


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
    for rows in draw_rows(draw, len(given)):
        means.extend((given * counts)[rows].sum(axis=1) / counts[rows].sum(axis=1))
    return take_percentiles(np.average(given, weights=counts), means)
