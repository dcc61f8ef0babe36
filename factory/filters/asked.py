"""`AskedFilter`: base of filters that hold an image against what its condition asks for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from factory.core.late import NDArray, np
from factory.data.records import Condition, Sample
from factory.filters.base import Filter, Scores

Images: TypeAlias = "Sequence[NDArray[np.uint8]]"
"""Each (H, W, 3) uint8 RGB, all of one size."""


class AskedFilter(Filter):
    """Scores the images of conditions with a class; with `needs_caption`, of those with a caption.

    Those of other conditions get NaN: not applicable, accepted.
    """

    needs_class = True

    @abstractmethod
    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns every score name -> N numbers.

        Args:
            images: N of them.
            asked: the class or the caption of each.

        Raises:
            InputError: what judges cannot be had.
            FilterError: scoring failed.
        """

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns all scores; NaN where nothing is asked.

        Raises:
            InputError: what judges cannot be had.
            FilterError: scoring failed.
        """
        asked = [each.caption if self.needs_caption else each.class_name for each in conditions]
        rows = [row for row, each in enumerate(asked) if each is not None]
        scores = {name: np.full(len(samples), np.nan) for name in self.score_names}
        if rows:
            images = [samples[row].pixels for row in rows]
            for name, found in self.score_asked(images, [str(asked[row]) for row in rows]).items():
                scores[name][rows] = found
        return scores
