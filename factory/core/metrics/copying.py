"""Tests of copying: authenticity of each synthetic image, and the three-sample test C_T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from factory.core.files.rows import Rows, average_rows, hold, iterate_rows
from factory.core.late import NDArray, np
from factory.core.metrics.manifolds import measure_distances

Features: TypeAlias = "NDArray[np.floating[Any]]"
Floats: TypeAlias = "NDArray[np.float64]"

COMPONENTS, CELLS = 64, 3
"""As in layer6ai-labs/dgm-eval, `metrics/ct.py`."""
LEAST_IN_CELL = 20
"""A cell counts with more synthetic images than this; dgm-eval's tau is 20 / M."""
_BLOCK, _OTHERS = 512, 8192
"""Rows that are compared, and others, at a time."""
WHOLE = 20_000
"""Training images up to which the PCA is that of all at once; of more, of sums of products."""


@dataclass(frozen=True, slots=True)
class CopyTest:
    """C_T of Meehan et al. 2020 (arXiv 2004.05675), and what it is made of.

    Attributes:
        c_t: mean of the cells' Z, weighted by their held-out images; None where no cell counts.
        z: of all images as one cell.
        cells: for each cell, its Z (None where it does not count) and its numbers of images.
    """

    c_t: float | None
    z: float
    cells: tuple[dict[str, Any], ...]


def find_nearest(
    queries: Features | Rows, others: Features | Rows, is_same: bool = False
) -> tuple[NDArray[np.int64], Floats]:
    """Returns (N,) position of the nearest other feature, and (N,) Euclidean distance to it.

    Args:
        queries: (N, D); of both, blocks are read as they are compared.
        others: (M, D).
        is_same: both are one set, and no image is its own neighbour.
    """
    x, y = hold(queries), hold(others)
    centre = average_rows(y)
    positions, distances = np.empty(x.count, np.int64), np.empty(x.count)
    for start, block in iterate_rows(x, _BLOCK):
        part = np.asarray(block, np.float64) - centre
        rows = np.arange(len(part))
        nearest, lowest = np.zeros(len(part), np.int64), np.full(len(part), np.inf)
        for begin, other in iterate_rows(y, _OTHERS):
            apart = measure_distances(part, np.asarray(other, np.float64) - centre)
            if is_same:
                own = start + rows - begin
                is_here = (own >= 0) & (own < len(other))
                apart[rows[is_here], own[is_here]] = np.inf
            first = apart.argmin(axis=1)
            is_nearer = apart[rows, first] < lowest
            nearest[is_nearer] = begin + first[is_nearer]
            lowest[is_nearer] = apart[rows, first][is_nearer]
        # Once more by differences: copies are at 0, not at the rounding of large squares.
        apart = part - (np.asarray(y.pick(nearest), np.float64) - centre)
        positions[start : start + len(part)] = nearest
        # One order in memory: the sum of a row, to its last bit, hangs on it.
        distances[start : start + len(part)] = np.linalg.norm(np.ascontiguousarray(apart), axis=1)
    return positions, distances


def compute_authenticity(train: Features, synthetic: Features) -> NDArray[np.bool_]:
    """Tells which synthetic images are authentic: 100 times the mean is AuthPct.

    Alaa et al. 2022 (arXiv 2102.08921), as dgm-eval reads it: authentic where the
    nearest training image is nearer to another training image than to the synthetic one.

    Args:
        train: (N, D), N at least 2.
        synthetic: (M, D).

    Returns:
        (M,) bool.
    """
    _, own = find_nearest(train, train, is_same=True)
    positions, distances = find_nearest(synthetic, train)
    return np.asarray(own[positions] < distances)


def compute_copy_test(
    train: Features | Rows,
    held_out: Features | Rows,
    synthetic: Features | Rows,
    *,
    components: int = COMPONENTS,
    cells: int = CELLS,
    seed: int = 0,
) -> CopyTest:
    """Tests whether synthetic images lie nearer to training images than held-out ones do.

    C_T of Meehan et al. 2020, in the reading of dgm-eval: features through a PCA that is fitted on
    the training set, cells by k-means of the training set, in each cell the Mann-Whitney U of the
    distances to its nearest training image as a Z score (with continuity correction, without one
    for ties), averaged with the held-out shares of the cells as weights.
    Much below 0: copies; much above 0: far from the training set.

    Args:
        train: (L, D).
        held_out: (N, D), from the distribution of `train`, used in no training.
        synthetic: (M, D).
        components: of the PCA, where D is larger.
        cells: of k-means.
        seed: of k-means.
    """
    from sklearn.cluster import KMeans

    t, p, q = _reduce([hold(each) for each in (train, held_out, synthetic)], components)
    clusters = KMeans(min(cells, len(t)), n_init=10, random_state=seed).fit(t)
    t_cells, p_cells, q_cells = (clusters.predict(each) for each in (t, p, q))
    described, weighted = [], []
    for cell in range(clusters.n_clusters):
        parts = (t[t_cells == cell], p[p_cells == cell], q[q_cells == cell])
        counts = bool(len(parts[1])) and len(parts[2]) > LEAST_IN_CELL
        z = compute_copy_z(*parts) if counts else None
        described.append(
            {"z": z, "train": len(parts[0]), "held_out": len(parts[1]), "synthetic": len(parts[2])}
        )
        if z is not None:
            weighted.append((len(parts[1]), z))
    whole = sum(weight for weight, _ in weighted)
    c_t = sum(weight * z for weight, z in weighted) / whole if whole else None
    return CopyTest(c_t, compute_copy_z(t, p, q), tuple(described))


def _reduce(sets: Sequence[Rows], components: int) -> list[Floats]:
    """Returns the sets, (N, components) each, along the directions in which the first varies.

    Of few rows by singular values of all at once; of more by the covariance, block by block.
    """
    from sklearn.decomposition import PCA

    train = sets[0]
    kept, width = min(components, train.count), train.read(0, 1).shape[1]
    if width <= kept:
        return [np.asarray(each.read(0, each.count), np.float64) for each in sets]
    if train.count <= WHOLE:
        whole = np.asarray(train.read(0, train.count), np.float64)
        reduce = PCA(n_components=kept, svd_solver="full").fit(whole).transform
    else:
        centre = average_rows(train)
        products = np.zeros((width, width))
        for _, block in iterate_rows(train, _OTHERS):
            part = np.asarray(block, np.float64) - centre
            products += part.T @ part
        directions = np.linalg.eigh(products)[1][:, ::-1][:, :kept]

        def reduce(values: Floats) -> Floats:
            return np.asarray((values - centre) @ directions)

    reduced = []
    for each in sets:
        parts = [reduce(np.asarray(block, np.float64)) for _, block in iterate_rows(each, _OTHERS)]
        reduced.append(np.concatenate(parts))
    return reduced


def compute_copy_z(train: Features, held_out: Features, synthetic: Features) -> float:
    """Returns the Z score of one cell: below 0 where the synthetic images are nearer to `train`."""
    from scipy.stats import mannwhitneyu

    _, near = find_nearest(synthetic, train)
    _, usual = find_nearest(held_out, train)
    m, n = len(near), len(usual)
    u = float(mannwhitneyu(near, usual, alternative="less", method="asymptotic").statistic)
    return (u - (n * m / 2 - 0.5)) / float(np.sqrt(n * m * (n + m + 1) / 12))
