"""`PixelFilter`: base of filters that judge each image by its pixels alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from factory.core.late import NDArray, np
from factory.data.records import Condition, Sample
from factory.filters.base import Filter, Scores


class PixelFilter(Filter):
    """Scores image by image, whatever was asked; a subclass measures one."""

    @abstractmethod
    def measure(self, pixels: NDArray[np.uint8]) -> Sequence[float]:
        """Returns a number for each of `scores`, in their order, of (H, W, 3) uint8 RGB."""

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns what is measured of each image."""
        found = np.array([self.measure(sample.pixels) for sample in samples], np.float64)
        return dict(zip(self.score_names, found.reshape(-1, len(self.scores)).T, strict=True))
