"""The similarity of the filter `training_copy`, of any images to a set, and which image it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.files.temporary import make_temporary
from factory.core.thumbnails import (
    compare_all,
    describe_images,
    find_nearest,
    turn_descriptors,
)
from factory.data.images import SourceImage, fit_image
from factory.engine.near_files import DescriptorFile
from factory.evaluate.image_sets import BLOCK, Fit, ImageSet
from factory.train.copies import find_featureless

Size = tuple[int, int]
"""Height and width, px."""


@dataclass(frozen=True, slots=True)
class Similar:
    """What the most similar image of a set is, for each of N images.

    Attributes:
        similarity: (N,) float64 in [-1, 1], as the filter scores it.
        position: (N,) which image of the set.
        fits: (N,) how that image was fitted.
        is_blank: (N,) True for images without structure, which are like any other such image.
    """

    similarity: NDArray[np.float64]
    position: NDArray[np.int64]
    fits: tuple[Fit, ...]
    is_blank: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Described:
    """(M, 256) descriptors in a file, the image that each is of, and how it was fitted."""

    rows: DescriptorFile
    owners: NDArray[np.int64]
    fits: tuple[Fit, ...]


class CopySearch:
    """Compares images with a set of real ones as `training_copy` does with its `images`.

    Descriptors of real images lie in a temporary file, and memory holds a block of them.
    Each real image counts at its own scale (centre crop) and as a whole (resized), over all flips
    and quarter turns.

    Args:
        real: the set.
    """

    def __init__(self, real: Sequence[SourceImage]) -> None:
        self._real = real
        self._described: dict[Size, _Described] = {}
        self._folder = make_temporary("copies")

    def search_images(self, images: Sequence[SourceImage]) -> Similar:
        """Searches for images at their own sizes, as the filter sees them.

        Raises:
            SourceError: an image that cannot be read.
        """
        sizes = [image.read_size()[::-1] for image in images]
        rows: list[int] = []
        found: list[Similar] = []
        for size in dict.fromkeys(sizes):
            same = [row for row, each in enumerate(sizes) if each == size]
            for start in range(0, len(same), BLOCK):
                part = same[start : start + BLOCK]
                found.append(self.search(np.stack([images[row].read_pixels() for row in part])))
                rows.extend(part)
        return _join(found, np.argsort(rows))

    def search_set(self, images: ImageSet) -> Similar:
        """Searches for the images of a set at its size.

        Raises:
            SourceError: an image that cannot be read.
        """
        return _join([self.search(block) for block in images.iterate_blocks()])

    def compare_own(
        self, images: Sequence[SourceImage], positions: Sequence[int]
    ) -> NDArray[np.float64]:
        """Returns (N,) similarity of each image to one named image of the set.

        Args:
            images: at their own sizes, as the filter sees them.
            positions: (N,) which image of the set.

        Raises:
            SourceError: an image that cannot be read.
        """
        found = np.empty(len(images))
        for row, (image, position) in enumerate(zip(images, positions, strict=True)):
            pixels = image.read_pixels()
            real = self._describe((pixels.shape[0], pixels.shape[1]))
            own = real.rows.pick(np.flatnonzero(real.owners == position))
            found[row] = compare_all(describe_images(pixels[None]), own)[0]
        return found

    def search(self, pixels: NDArray[np.uint8]) -> Similar:
        """Searches for (N, H, W, 3) uint8 RGB pixels.

        Raises:
            SourceError: a real image that cannot be read.
        """
        real = self._describe((pixels.shape[1], pixels.shape[2]))
        described = describe_images(pixels)
        row, similarity = find_nearest(described, real.rows)
        fits = tuple(real.fits[each] for each in row)
        return Similar(similarity, real.owners[row], fits, find_featureless(described))

    def _describe(self, size: Size) -> _Described:
        if size not in self._described:
            rows = DescriptorFile(Path(self._folder.name) / f"{size[0]}x{size[1]}")
            owners, fits = [], []
            for number, pixels, fit in _fit_all(self._real, size):
                rows.add(describe_images(pixels[None]))
                owners.append(number)
                fits.append(fit)
            self._described[size] = _Described(rows, np.array(owners), tuple(fits))
        return self._described[size]


def _join(found: Sequence[Similar], order: NDArray[np.int64] | None = None) -> Similar:
    fits = [fit for each in found for fit in each.fits]
    rows = np.arange(len(fits)) if order is None else order
    return Similar(
        np.concatenate([each.similarity for each in found])[rows],
        np.concatenate([each.position for each in found])[rows],
        tuple(fits[row] for row in rows),
        np.concatenate([each.is_blank for each in found])[rows],
    )


def turn_like(pixels: NDArray[np.uint8], model: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image flipped and turned so that it is most similar to another.

    Args:
        pixels: (S, S, 3) uint8 RGB, turned.
        model: (S, S, 3) uint8 RGB.
    """
    turned = turn_descriptors(describe_images(pixels[None]).astype(np.float32))[:, 0]
    pose = int((turned @ describe_images(model[None])[0].astype(np.float32)).argmax())
    found = np.rot90(pixels, pose // 2)
    return np.ascontiguousarray(found[:, ::-1] if pose % 2 else found)


def _fit_all(
    images: Sequence[SourceImage], size: Size
) -> Iterator[tuple[int, NDArray[np.uint8], Fit]]:
    """Yields each image in both ways; once where it has that size already."""
    height, width = size
    fits: tuple[Fit, ...] = ("crop", "resize")
    for number, image in enumerate(images):
        pixels = image.read_pixels()
        for fit in fits[:1] if pixels.shape[:2] == size else fits:
            yield number, fit_image(pixels, width, height, fit), fit
