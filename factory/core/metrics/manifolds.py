"""Precision, recall, density and coverage of two sets of features, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from factory.core.late import NDArray, np

Features: TypeAlias = "NDArray[np.floating[Any]]"
Floats: TypeAlias = "NDArray[np.float64]"
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Manifolds:
    """What each image adds; the metrics are the means.

    B(x) is the open ball around x whose radius is the distance to its k-th nearest image of its own
    set. Precision and recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2;
    density and coverage: Naeem et al. 2020 (arXiv 2002.09797), section 3.

    Attributes:
        precision: (M,) 1 for a synthetic image in B of any real one, else 0.
        density: (M,) real balls that a synthetic image lies in, over k; its mean may exceed 1.
        recall: (N,) 1 for a real image in B of any synthetic one, else 0.
        coverage: (N,) 1 for a real image whose B holds any synthetic one, else 0.
    """

    precision: Floats
    density: Floats
    recall: Floats
    coverage: Floats


def compare_manifolds(real: Features, synthetic: Features, neighbours: int = 5) -> Manifolds:
    """Compares two sets by balls to their k-th nearest neighbours.

    Args:
        real: (N, D), N more than `neighbours`.
        synthetic: (M, D), M more than `neighbours`.
        neighbours: k.

    Raises:
        ValueError: a set that is too small for k.
    """
    if min(len(real), len(synthetic)) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more images: {len(real)}, {len(synthetic)}")
    centre = np.asarray(real, np.float64).mean(axis=0)
    x, y = np.asarray(real, np.float64) - centre, np.asarray(synthetic, np.float64) - centre
    radii, other_radii = _measure_radii(x, neighbours), _measure_radii(y, neighbours)
    precision, density = np.zeros(len(y)), np.zeros(len(y))
    recall, nearest = np.zeros(len(x), bool), np.full(len(x), np.inf)
    for start in range(0, len(y), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distances = measure_distances(x, y[rows])
        inside = distances < radii[:, None]
        precision[rows] = inside.any(axis=0)
        density[rows] = inside.sum(axis=0) / neighbours
        recall |= (distances < other_radii[rows]).any(axis=1)
        nearest = np.minimum(nearest, distances.min(axis=1))
    coverage = (nearest < radii).astype(np.float64)
    return Manifolds(precision, density, recall.astype(np.float64), coverage)


def measure_distances(first: Floats, second: Floats) -> Floats:
    """Returns (N, M) Euclidean distances; best for features about the origin."""
    squares = (first * first).sum(1)[:, None] + (second * second).sum(1) - 2 * (first @ second.T)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _measure_radii(points: Floats, neighbours: int) -> Floats:
    """Returns (N,) distances to the k-th nearest other point."""
    radii = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        distances = measure_distances(points[start : start + _BLOCK], points)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        nearest = np.partition(distances, neighbours - 1, axis=1)
        radii[start : start + _BLOCK] = nearest[:, neighbours - 1]
    return radii
