"""Draws of images or whole patients: half samples, intervals over groups, disjoint halves."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import compute_digest, derive_seed
from factory.core.stats.intervals import LEVEL, Interval, bootstrap_mean

ROUNDS = 200
"""Half samples of a kernel distance."""
PARTS = 5
"""Most parts of the real images that are held back for the floor."""
LEAST_SHARE = 0.8
"""Of the images wanted, from which the last part counts."""
LEAST_GROUPS = 4
"""Under so many patients or slides, images are drawn, and the result says so."""

Groups = NDArray[np.int64] | None
"""(N,) number of each image's patient or slide; None where it is not known of all."""


def number_groups(groups: Sequence[str | None]) -> Groups:
    """Returns the groups as numbers; None unless all are known and there are a few."""
    if any(group is None for group in groups):
        return None
    names, numbers = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    return numbers.astype(np.int64) if len(names) >= LEAST_GROUPS else None


def name_unit(groups: Groups) -> str:
    """Returns what is drawn: `image` or `group` (patient or slide)."""
    return "image" if groups is None else "group"


def pick_halves(count: int, groups: Groups, seed: int, *key: str) -> NDArray[np.bool_]:
    """Returns (ROUNDS, N) random halves of the images, or the images of half of the groups."""
    draw = np.random.default_rng(derive_seed(seed, "halves", count, *key))
    units = count if groups is None else int(groups.max()) + 1
    order = draw.random((ROUNDS, units)).argsort(axis=1)
    picked = order < units // 2
    return np.asarray(picked if groups is None else picked[:, groups])


def measure_spread(value: float, draws: NDArray[np.float64], centre: float) -> Interval:
    """Returns a value with the 95 % interval that half samples give it.

    Half samples without replacement differ from the whole as the whole from the truth (the
    delete-half jackknife, Shao and Wu 1989, Annals of Statistics 17). No image occurs twice, as it
    would in a bootstrap, where it would count as its own neighbour.

    Args:
        value: of all images.
        draws: (R,) of the half samples.
        centre: of all images, by the estimator of the draws.
    """
    low, high = np.quantile(draws - centre, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, value + float(min(low, 0.0)), value + float(max(high, 0.0)))


def bootstrap_groups(values: NDArray[np.float64], groups: Groups, seed: int) -> Interval:
    """Returns the mean over images and its interval over resampled images, or groups.

    Args:
        values: (N,) one per image.
        groups: (N,) or None.
        seed: of the resampling.
    """
    if groups is None:
        return bootstrap_mean(values, seed)
    counts = np.bincount(groups).astype(np.float64)
    present = counts > 0
    sums = np.bincount(groups, weights=values)
    return bootstrap_mean(sums[present] / counts[present], seed, counts[present])


def cut_parts(
    keys: Sequence[str], groups: Sequence[str | None], count: int, seed: int
) -> tuple[NDArray[np.bool_], ...]:
    """Chooses parts of about `count` images, each to be compared with all the rest.

    They are disjoint where at least three of them fit; else each is drawn from all images anew.

    Args:
        keys: (N,) names that are unique.
        groups: (N,) patients or slides; where all are known, none lies in a part and outside it.
        count: images of a part, at most half of all; a larger group is a part by itself.
        seed: of the choice.

    Returns:
        At most PARTS masks, (N,) True for the part; none where all images are of one group.
    """
    by_group = all(group is not None for group in groups)
    units = [str(group) for group in groups] if by_group else list(keys)
    sizes = Counter(units)
    if len(sizes) < 2:
        return ()
    parts = _cut_disjoint(sizes, count, seed, 0)
    if len(parts) < 3:
        drawn = [_cut_disjoint(sizes, count, seed, number)[0] for number in range(PARTS)]
        parts = list(dict.fromkeys(drawn))
    return tuple(np.array([unit in part for unit in units]) for part in parts[:PARTS])


def _cut_disjoint(sizes: Counter[str], count: int, seed: int, number: int) -> list[frozenset[str]]:
    """Fills parts with units in a keyed order; what is left over is no part unless it is large."""
    parts: list[set[str]] = [set()]
    taken = 0
    for unit in sorted(sizes, key=lambda unit: compute_digest("part", [seed, number, unit])):
        if parts[-1] and taken + sizes[unit] > count:
            parts.append(set())
            taken = 0
        parts[-1].add(unit)
        taken += sizes[unit]
    if len(parts) > 1 and taken < LEAST_SHARE * count:
        parts.pop()
    return [frozenset(part) for part in parts]
