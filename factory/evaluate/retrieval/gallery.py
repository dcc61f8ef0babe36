"""The held-out images and captions to search, each once, and which of them belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.retrieval.pairs import Pair
from factory.evaluate.retrieval.ranks import find_chance, score_queries
from factory.evaluate.retrieval.settings import METRICS


@dataclass(frozen=True, slots=True)
class Gallery:
    """Distinct images and distinct captions.

    A caption fits every image that carries it: counting other images of the same words as misses
    would punish right answers (Chun et al. 2022, arXiv 2204.03359, on false negatives of
    MS-COCO). Equal captions are one query and one entry, so that none counts twice.

    Attributes:
        images: a pair of each distinct image.
        captions: each distinct caption.
        captions_of: for each image, the captions that fit, as positions.
        images_of: for each caption, the images that fit.
    """

    images: tuple[Pair, ...]
    captions: tuple[str, ...]
    captions_of: tuple[NDArray[np.int64], ...]
    images_of: tuple[NDArray[np.int64], ...]

    @property
    def units(self) -> dict[str, NDArray[np.int64]]:
        """Direction -> (queries,): the caption that each query belongs to.

        Images of one caption tend to be hit or missed together, so they are resampled together.
        """
        first = np.array([rows[0] for rows in self.captions_of])
        return {"i2t": first, "t2i": np.arange(len(self.captions))}

    def find_chance(self) -> dict[str, float]:
        """Returns metric -> value of a random order."""
        there = find_chance(self.captions_of, len(self.captions))
        back = find_chance(self.images_of, len(self.images))
        return dict(zip(METRICS, [*map(float, there), *map(float, back)], strict=True))

    def score(
        self, images: NDArray[np.float32], captions: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns metric -> (queries,) hits, in [0, 1].

        Args:
            images: (len(self.images), D) unit features.
            captions: (len(self.captions), D) unit features.
        """
        there = score_queries(images, captions, self.captions_of)
        back = score_queries(captions, images, self.images_of)
        return dict(zip(METRICS, [*there.T, *back.T], strict=True))


def build_gallery(pairs: Sequence[Pair]) -> Gallery:
    """Joins pairs of one image (by pixels) and of one caption (by words)."""
    images: dict[str, Pair] = {}
    captions: dict[str, str] = {}
    for pair in pairs:
        images.setdefault(pair.image, pair)
        captions.setdefault(pair.words, pair.caption)
    image_rows = {key: row for row, key in enumerate(images)}
    caption_rows = {key: row for row, key in enumerate(captions)}
    links = {(image_rows[pair.image], caption_rows[pair.words]) for pair in pairs}
    captions_of: list[list[int]] = [[] for _ in images]
    images_of: list[list[int]] = [[] for _ in captions]
    for image, caption in sorted(links):
        captions_of[image].append(caption)
        images_of[caption].append(image)
    return Gallery(
        tuple(images.values()),
        tuple(captions.values()),
        tuple(np.array(rows) for rows in captions_of),
        tuple(np.array(rows) for rows in images_of),
    )
