"""All scores of a feature against a labelled set of real ones, and their places among the real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from factory.core.errors import FilterError
from factory.core.late import NDArray, np
from factory.filters.real.classes import RealClasses, pick_classes
from factory.filters.real.neighbours import Near, RealNeighbours

Floats: TypeAlias = "NDArray[np.float64]"

SCORES = (
    "realism",
    "neighbour_distance",
    "mahalanobis_distance",
    "centroid_distance",
    "authenticity_ratio",
)
OUTSIDE = 0.01
"""How far under 0 or over 1 the place of a score lies that no real image reaches."""
_CONSTANT = 1e-6
"""A feature that deviates less, relative to its size, is constant, and left out."""


class RealScores:
    """Standardises features by those of the real set, and scores them.

    Args:
        features: (N, D) of the real images.
        labels: their classes; None for images without one.
        neighbours: k.

    Raises:
        FilterError: the features do not differ.
    """

    def __init__(
        self, features: NDArray[np.float32], labels: Sequence[str | None], neighbours: int
    ) -> None:
        real = features.astype(np.float64)
        self._mean, deviation = real.mean(axis=0), real.std(axis=0)
        self._varies = deviation > _CONSTANT * (np.abs(self._mean) + _CONSTANT)
        self._deviation = deviation[self._varies]
        scaled = self._scale(real)
        if not scaled.shape[1] or len(np.unique(scaled, axis=0)) < neighbours + 2:
            raise FilterError("realism: the real images look alike to the encoder: take another")
        # Classes in order of their names; images without a class are a class of their own, last.
        names = sorted(set(labels), key=lambda name: (name is None, name or ""))
        self._labels = np.array([names.index(label) for label in labels], np.int64)
        self.neighbours = RealNeighbours(scaled, neighbours)
        self.classes = RealClasses(scaled, self._labels)
        self.own = _name(self.neighbours.leave_one_out(), *self.classes.leave_one_out())
        self._references = self._build_references(scaled)

    def score(
        self, features: NDArray[np.float32], asked: Sequence[int | None]
    ) -> dict[str, Floats]:
        """Returns every score and its quantile, (M,) each.

        Args:
            features: (M, D) of images that are not in the set.
            asked: their classes, by position among the sorted class names; None: none asked.
        """
        scaled = self._scale(features.astype(np.float64))
        mahalanobis, centroid = self.classes.score(scaled)
        found = _name(
            self.neighbours.score(scaled),
            pick_classes(mahalanobis, asked),
            pick_classes(centroid, asked),
        )
        places = {
            f"{name}_quantile": np.array(
                [
                    find_quantile(value, self._references[c][name])
                    for value, c in zip(values.tolist(), asked, strict=True)
                ]
            )
            for name, values in found.items()
        }
        return found | places

    def find_nearest(self, feature: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
        """Returns (position, distance in units of the median k-NN distance), nearest first."""
        return self.neighbours.find_nearest(self._scale(feature.astype(np.float64)), count)

    def _scale(self, features: Floats) -> Floats:
        return np.asarray((features - self._mean)[..., self._varies] / self._deviation)

    def _build_references(self, scaled: Floats) -> dict[int | None, dict[str, Floats]]:
        """Returns class -> score -> sorted scores of its real images; None: all, nearest class."""
        found: dict[int | None, dict[str, Floats]] = {
            int(each): {name: np.sort(v[self._labels == each]) for name, v in self.own.items()}
            for each in np.unique(self._labels)
        }
        rows, nearest = np.arange(len(scaled)), dict(self.own)
        names = ("mahalanobis_distance", "centroid_distance")
        for name, distances in zip(names, self.classes.score(scaled), strict=True):
            distances[rows, self._labels] = self.own[name]
            nearest[name] = distances.min(axis=1)
        found[None] = {name: np.sort(values) for name, values in nearest.items()}
        return found


def find_quantile(value: float, ascending: Floats) -> float:
    """Returns q with numpy.quantile(ascending, q) = value; beyond its ends -0.01 or 1.01."""
    if value < ascending[0]:
        return -OUTSIDE
    if value > ascending[-1]:
        return 1.0 + OUTSIDE
    return float(np.interp(value, ascending, np.linspace(0.0, 1.0, len(ascending))))


def _name(near: Near, mahalanobis: Floats, centroid: Floats) -> dict[str, Floats]:
    values: Mapping[str, Any] = {
        "realism": near.realism,
        "neighbour_distance": near.neighbour_distance,
        "mahalanobis_distance": mahalanobis,
        "centroid_distance": centroid,
        "authenticity_ratio": near.authenticity,
    }
    return {name: values[name] for name in SCORES}
