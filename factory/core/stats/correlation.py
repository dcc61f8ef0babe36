"""Pearson's correlation of grouped pairs: with an interval over groups, and a permutation test."""

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.core.stats.intervals import ROUNDS, Interval, draw_times, take_percentiles
from factory.core.stats.resampling import Groups

Floats = NDArray[np.float64]


def correlate_weighted(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Returns (R,) correlations of (N,) pairs under (R, N) weights; NaN where one is constant."""
    total = weights.sum(1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    var_x = weights @ (x * x) / total - mean_x**2
    var_y = weights @ (y * y) / total - mean_y**2
    both = weights @ (x * y) / total - mean_x * mean_y
    is_flat = (var_x <= 1e-12 * (x * x).max(initial=0)) | (var_y <= 1e-12 * (y * y).max(initial=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = both / np.sqrt(var_x * var_y)
    return np.asarray(np.where(is_flat, np.nan, np.clip(found, -1.0, 1.0)))


def draw_weights(count: int, groups: Groups, seed: int, rounds: int = ROUNDS) -> Floats:
    """Returns (R, N): how often each unit is drawn when whole groups are, or units for None."""
    units = count if groups is None else int(groups.max()) + 1
    draw = np.random.default_rng(derive_seed(seed, "weights", count, units))
    times = np.concatenate([block for (block,) in draw_times(draw, [units], rounds)])
    return np.asarray(times if groups is None else times[:, groups], np.float64)


def bootstrap_pearson(x: Floats, y: Floats, groups: Groups, seed: int) -> Interval | None:
    """Returns Pearson's r of (N,) pairs with its 95 % interval over resampled groups.

    None where it is not defined: fewer than three pairs, or a side that is constant.
    """
    if len(x) < 3:
        return None
    x, y = x - x.mean(), y - y.mean()
    value = float(correlate_weighted(x, y, np.ones((1, len(x))))[0])
    if not np.isfinite(value):
        return None
    found = correlate_weighted(x, y, draw_weights(len(x), groups, seed))
    return take_percentiles(value, found[np.isfinite(found)])


def permute_pearson(
    x: Floats, y: Floats, blocks: NDArray[np.int64] | None, seed: int, rounds: int = ROUNDS
) -> float:
    """Returns the one-sided p value of Pearson's r: the share of permutations that reach it.

    (1 + those at or above) / (1 + rounds), Phipson and Smyth 2010. With blocks, such as patients,
    values change places within them alone, so that what tells patients apart is no evidence; where
    each block has one value, all change places.
    """
    if blocks is not None and np.bincount(blocks).max() < 2:
        blocks = None
    draw = np.random.default_rng(derive_seed(seed, "permutation", len(x)))
    x, y = x - x.mean(), y - y.mean()
    keys = np.zeros(len(x)) if blocks is None else blocks.astype(np.float64)
    home = np.argsort(keys, kind="stable")
    reached = 0
    seen = float(x @ y)
    for _ in range(rounds):
        shuffled = np.lexsort((draw.random(len(x)), keys))
        reached += float(x[home] @ y[shuffled]) >= seen - 1e-12 * abs(seen)
    return (1 + reached) / (1 + rounds)
