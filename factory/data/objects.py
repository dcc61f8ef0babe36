"""Objects of masks, such as nuclei: where they lie, how large they are, how sets of them differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.data.label_maps import INSTANCES, Labels

MEASURES = ("count", "area", "nearest", "coverage")
"""Objects of a mask; px of each object; px from each to the nearest other; share of the mask."""

_PARTS = 10**9


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one mask.

    Attributes:
        centres: (N, 2) float64, x and y of each centroid, px.
        areas: (N,) float64, px.
        ids: (N,) int64, of the palette.
        labels: (H, W) int64, 1 .. N where an object is.
        size: width and height, px.
    """

    centres: NDArray[np.float64]
    areas: NDArray[np.float64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    size: tuple[int, int]

    @property
    def boxes(self) -> list[tuple[slice, slice]]:
        """The rows and columns that each object spans."""
        from scipy import ndimage

        return list(ndimage.find_objects(self.labels))


def find_objects(labels: Labels, has_instances: bool, least: int = 8) -> Objects:
    """Returns the objects of a map: coded ones, else connected parts of each id.

    Args:
        labels: (H, W): id * 1000 + n where `has_instances`, else ids.
        has_instances: whether objects are told apart.
        least: px that an object has at least; smaller ones are specks.
    """
    coded = labels.astype(np.int64) if has_instances else _connect(labels)
    step = INSTANCES if has_instances else _PARTS
    values, numbers = np.unique(coded, return_inverse=True)
    numbers = numbers.reshape(coded.shape)
    areas = np.bincount(numbers.ravel(), minlength=len(values))
    kept = (values > 0) & (areas >= least)
    table = np.zeros(len(values), np.int64)
    table[kept] = np.arange(1, kept.sum() + 1)
    found, count = table[numbers], int(kept.sum())
    rows, columns = np.indices(found.shape)
    flat = found.ravel()
    sizes = np.bincount(flat, minlength=count + 1)[1:].astype(np.float64)
    x, y = (
        np.bincount(flat, each.ravel(), count + 1)[1:] / np.maximum(sizes, 1)
        for each in (columns, rows)
    )
    ids = values[kept] // step
    size = (labels.shape[1], labels.shape[0])
    return Objects(np.stack([x, y], 1), sizes, ids, found, size)


def _connect(labels: Labels) -> NDArray[np.int64]:
    """Returns connected parts of each id (edges and corners), coded as id * _PARTS + n."""
    from scipy import ndimage

    coded = np.zeros(labels.shape, np.int64)
    for identifier in np.unique(labels[labels > 0]).tolist():
        parts, _ = ndimage.label(labels == identifier, np.ones((3, 3)))
        mine = parts > 0
        coded[mine] = int(identifier) * _PARTS + parts[mine].astype(np.int64)
    return coded


def measure_objects(found: Sequence[Objects]) -> dict[str, NDArray[np.float64]]:
    """Returns the distributions of MEASURES over masks, as (M,) float64 each."""
    nearest = [_measure_nearest(each.centres) for each in found]
    covered = [each.areas.sum() / (each.size[0] * each.size[1]) for each in found]
    return {
        "count": np.array([len(each.areas) for each in found], np.float64),
        "area": np.concatenate([each.areas for each in found] or [np.zeros(0)]),
        "nearest": np.concatenate(nearest or [np.zeros(0)]),
        "coverage": np.array(covered, np.float64),
    }


def _measure_nearest(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N,) px from each point to the nearest other; none where there is one point."""
    from scipy.spatial import KDTree

    if len(centres) < 2:
        return np.zeros(0)
    distances: NDArray[np.float64] = KDTree(centres).query(centres, k=2)[0][:, 1]
    return distances


def compare_objects(one: Sequence[Objects], other: Sequence[Objects]) -> Mapping[str, float]:
    """Returns the Wasserstein-1 distance of two sets of masks for each of MEASURES, in its unit."""
    from scipy.stats import wasserstein_distance

    first, second = measure_objects(one), measure_objects(other)
    return {
        name: float(wasserstein_distance(first[name], second[name]))
        if len(first[name]) and len(second[name])
        else float("nan")
        for name in MEASURES
    }
