"""Tests of copying: authenticity of each synthetic image, and the three-sample test C_T."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.metrics.manifolds import measure_distances

Features = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

COMPONENTS, CELLS = 64, 3
"""As in layer6ai-labs/dgm-eval, `metrics/ct.py`."""
LEAST_IN_CELL = 20
"""A cell counts with more synthetic images than this; dgm-eval's tau is 20 / M."""
_BLOCK = 512


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
    queries: Features, others: Features, is_same: bool = False
) -> tuple[NDArray[np.int64], Floats]:
    """Returns (N,) position of the nearest other feature, and (N,) Euclidean distance to it.

    Args:
        queries: (N, D).
        others: (M, D).
        is_same: both are one set, and no image is its own neighbour.
    """
    y = np.asarray(others, np.float64)
    centre = y.mean(axis=0)
    x, y = np.asarray(queries, np.float64) - centre, y - centre
    positions = np.empty(len(x), np.int64)
    for start in range(0, len(x), _BLOCK):
        distances = measure_distances(x[start : start + _BLOCK], y)
        if is_same:
            rows = np.arange(len(distances))
            distances[rows, start + rows] = np.inf
        positions[start : start + _BLOCK] = distances.argmin(axis=1)
    # Once more by differences: copies are at 0, not at the rounding of large squares.
    return positions, np.linalg.norm(x - y[positions], axis=1)


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
    train: Features,
    held_out: Features,
    synthetic: Features,
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
    from sklearn.decomposition import PCA

    t, p, q = (np.asarray(each, np.float64) for each in (train, held_out, synthetic))
    kept = min(components, len(t))
    if t.shape[1] > kept:
        reduce = PCA(n_components=kept, svd_solver="full").fit(t)
        t, p, q = (reduce.transform(each) for each in (t, p, q))
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


def compute_copy_z(train: Features, held_out: Features, synthetic: Features) -> float:
    """Returns the Z score of one cell: below 0 where the synthetic images are nearer to `train`."""
    from scipy.stats import mannwhitneyu

    _, near = find_nearest(synthetic, train)
    _, usual = find_nearest(held_out, train)
    m, n = len(near), len(usual)
    u = float(mannwhitneyu(near, usual, alternative="less", method="asymptotic").statistic)
    return (u - (n * m / 2 - 0.5)) / float(np.sqrt(n * m * (n + m + 1) / 12))
