"""Clusters of features, patients whole, and the medoid of each: the same whatever the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factory.core.late import NDArray, np

STARTS = 8
"""Seedings of k-means, of which the one with the least inertia is kept."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that lie together, and that among them which stands for all."""

    medoid: int
    rows: tuple[int, ...]


def find_clusters(
    features: NDArray[np.float32], units: Sequence[str], count: int, seed: int
) -> tuple[Cluster, ...]:
    """Parts rows into `count` clusters that cut no unit, the largest first.

    k-means (Lloyd 1982, k-means++ seeding) of the units' means, each weighted by its rows; columns
    are standardised over the rows, as they have no common unit. The medoid is the row with the
    least sum of squared distances to the rows of its cluster: the one nearest to their mean. Ties
    go to the earlier row, so callers sort rows by what they hold.

    Args:
        features: (N, D), finite.
        units: (N,) what each row belongs to, such as a patient; equal ones stay together.
        count: at least 1.
        seed: of the seedings.

    Returns:
        Fewer than `count` where fewer units differ in their features.
    """
    spread = features.std(axis=0, dtype=np.float64)
    scaled = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
    names, inverse, sizes = np.unique(units, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), features.shape[1]))
    np.add.at(means, inverse, scaled)
    means /= sizes[:, None]
    labels = _label(means, sizes, min(count, len(np.unique(means, axis=0))), seed)[inverse]
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        away = np.square(scaled[rows] - scaled[rows].mean(axis=0)).sum(axis=1)
        medoid = int(rows[np.round(away, 9).argmin()])
        found.append(Cluster(medoid, tuple(rows.tolist())))
    return tuple(sorted(found, key=lambda each: (-len(each.rows), each.medoid)))


def _label(
    means: NDArray[np.float64], sizes: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.int64]:
    """Returns (U,) the cluster of each unit; one thread, so that sums are added in one order."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        fitted = KMeans(count, n_init=STARTS, random_state=seed % 2**32)
        return np.asarray(fitted.fit_predict(means, sample_weight=sizes), np.int64)
