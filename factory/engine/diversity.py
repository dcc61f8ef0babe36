"""Picking: which of more accepted images than asked for are kept, series by series."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.recipe.recipe import BestPick, DiversePick

SAMPLED_SHARE = math.log(1 / 0.01)
"""Of stochastic greedy search: it misses the greedy value by at most 1 % in expectation."""

Pick = BestPick | DiversePick


def count_pool(count: int, pick: Pick | None) -> int:
    """Returns how many accepted images a series of `count` kept ones is chosen from."""
    return count if pick is None else math.ceil(count * pick.pool - 1e-9)


def count_kept(pool: int, pick: Pick | None) -> int:
    """Returns how many of a series' pool are kept: the inverse of `count_pool`."""
    return pool if pick is None else math.floor(pool / pick.pool + 1e-9)


def pick_best(scores: NDArray[np.float64], count: int, highest: bool) -> NDArray[np.int64]:
    """Returns the rows of the `count` best scores, ascending; ties and NaN go to the earlier row.

    Args:
        scores: (N,) in request order; NaN ranks last.
        count: at most N.
        highest: whether high is good.
    """
    order = np.argsort(-scores if highest else scores, kind="stable")
    return np.sort(order[:count])


def pick_diverse(
    features: NDArray[np.float32], count: int, method: str, seed: int
) -> NDArray[np.int64]:
    """Returns `count` rows that stand for all the others, ascending.

    Features are standardised, as their columns have no common unit.

    Args:
        features: (N, D).
        count: at most N.
        method: `facility_location` or `kmeans`.
        seed: of the search.
    """
    if count >= len(features):
        return np.arange(len(features))
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    search = _cover if method == "facility_location" else _cluster
    return np.sort(search(scaled.astype(np.float32), count, seed))


def _cover(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Facility location: each row is near one that is kept.

    Maximises the sum over all rows of the largest similarity (minus the distance) to a kept row, by
    stochastic greedy search (Mirzasoleiman et al. 2015, arXiv 1409.7938): N log(100) similarities a
    row in all, none of them kept.
    """
    generator = np.random.default_rng(derive_seed(seed, "pick"))
    squares = np.einsum("ij,ij->i", features, features)
    total = len(features)
    nearest = np.full(total, np.inf)
    free = np.arange(total)
    kept: list[int] = []
    while len(kept) < count:
        size = min(len(free), max(1, math.ceil(total / count * SAMPLED_SHARE)))
        drawn = np.sort(generator.choice(free, size, replace=False))
        apart = squares[:, None] + squares[drawn] - 2 * features @ features[drawn].T
        distances = np.sqrt(np.maximum(apart, 0.0))
        best = int(np.minimum(distances, nearest[:, None]).sum(axis=0).argmin())
        nearest = np.minimum(nearest, distances[:, best])
        kept.append(int(drawn[best]))
        free = free[free != drawn[best]]
    return np.array(kept)


def _cluster(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """k-means (Lloyd 1982): the row nearest to the centre of each of `count` clusters."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    kind = KMeans if len(features) <= 5000 else MiniBatchKMeans
    fitted = kind(count, n_init=1, random_state=derive_seed(seed, "pick") % 2**32).fit(features)
    distances = np.linalg.norm(features - fitted.cluster_centers_[fitted.labels_], axis=1)
    kept: dict[int, int] = {}
    for row in np.argsort(distances, kind="stable").tolist():
        kept.setdefault(int(fitted.labels_[row]), row)
    # Instead of empty clusters, the rows that are farthest from their centre.
    taken = set(kept.values())
    rest = (row for row in np.argsort(-distances, kind="stable").tolist() if row not in taken)
    return np.array([*taken, *itertools.islice(rest, count - len(taken))])


def rank_scores(rows: Sequence[dict[str, float | None]], by: str) -> NDArray[np.float64]:
    """Returns the (N,) scores named by a pick, NaN where there is none."""
    name = by.removeprefix("-")
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
