"""Real images of a report: sets that a recipe or the user names, and the nearest one in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.files.paths import resolve_path
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.images import decode_image
from factory.core.thumbnails import Descriptors, describe_images, find_nearest
from factory.data.images import SourceImage, fit_image, list_images
from factory.data.varied import Varied, find_varied
from factory.filters.base import Filter
from factory.publish.report.pictures import Picture, draw_picture
from factory.publish.report.state import RunState
from factory.recipe.recipe import Recipe

MAX_IMAGES = 20_000
"""Real images of a set that are compared with; of more, evenly many are taken."""
Size = tuple[int, int]
"""(height, width), px."""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RealMatch:
    """A real image beside a made one.

    Attributes:
        name: its path below the set's root, row or member.
        class_name: its class, if it has one.
        picture: its thumbnail, fitted as it was compared.
        similarity: over all flips and turns, in [-1, 1], as `training_copy` measures it; None
            where another measure found it.
        distance: to it in an encoder's features, 1 being usual among real images; None likewise.
    """

    name: str
    class_name: str | None
    picture: Picture
    similarity: float | None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set of real images named by the recipe or by the user.

    Attributes:
        title: what it is to the run.
        path: where it is.
        sha256: digest that the run recorded, where it did.
        image_column: of rows.
    """

    title: str
    path: Path
    sha256: str | None = None
    image_column: str | None = None


def list_real_sets(
    state: RunState, extra: Sequence[Path], image_column: str | None = None
) -> list[NamedSet]:
    """Returns the sets compared with by descriptors: those of such filters, and `extra` ones."""
    found = [NamedSet("real images given", path, None, image_column) for path in extra]
    for judge in state.decider.filters:
        recorded = next(iter(state.summary.list_recorded(judge.name)), {})
        for real in judge.real_images if judge.nearness is None else ():
            title, digest = f"{judge.name}.{real.field}", recorded.get(f"{real.field}_sha256")
            found.append(NamedSet(title, real.path, digest, real.columns.get("image_column")))
    return found


def list_reference_paths(recipe: Recipe, base: Path) -> list[tuple[Path, str | None]]:
    """Returns folder and image column of the recipe's reference conditions, each once."""
    blocks = [block.varied for block in recipe.blocks if block.varied is not None]
    found = ((resolve_path(base, each.path), each.columns.get("image_column")) for each in blocks)
    return list(dict.fromkeys(found))


def find_references(
    paths: Sequence[tuple[Path, str | None]], varied: Sequence[Varied | None]
) -> dict[str, SourceImage]:
    """Returns the sha256 that rows name -> that real image, for those that are still there.

    Raises:
        SourceError: a folder that is not there, or cannot be read.
    """
    images = (image for path, column in paths for image in list_images(path, image_column=column))
    return find_varied(varied, images)


def match_reference(image: SourceImage, made: Pixels, fit: str) -> RealMatch:
    """Puts a reference beside an image that varies it.

    Args:
        image: the reference.
        made: (H, W, 3) uint8 RGB.
        fit: how the reference was fitted to the size of what was made.

    Raises:
        SourceError: it cannot be read.
    """
    height, width = made.shape[:2]
    fitted = fit_image(image.read_pixels(), width, height, fit)
    own = describe_images(made[None])
    similarity = find_nearest(own, describe_images(fitted[None]).astype(np.float32))[1]
    picture = draw_picture(fitted, is_synthetic=False)
    return RealMatch(image.key, image.class_name, picture, round(float(similarity[0]), 4))


class Neighbours:
    """The images of a real set, described at one size: the nearest of each made image.

    Each is described at its own scale (centre crop) and as a whole (resized), as `training_copy`
    does.

    Raises:
        SourceError: the set cannot be read.
    """

    def __init__(self, real: NamedSet, size: Size) -> None:
        self.real, self.size = real, size
        listed = list_images(real.path, image_column=real.image_column)
        self.images = listed[:: -(-len(listed) // MAX_IMAGES)]
        self.found = len(listed)
        self._rows: list[tuple[SourceImage, str]] = []
        self._hashes: list[str] = []
        described = [self._describe(image) for image in self.images]
        self._described = np.concatenate(described).astype(np.float32)

    @property
    def is_another_set(self) -> bool:
        """Whether these are not the images that the run compared with."""
        recorded = self.real.sha256
        is_whole = len(self.images) == self.found
        digest = compute_digest("images", sorted(self._hashes))
        return recorded is not None and is_whole and digest != recorded

    def find(self, made: Descriptors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns (N,) places, for `draw`, and similarities of the nearest of (N, 256)."""
        return find_nearest(made, self._described)

    def draw(self, place: int, similarity: float) -> RealMatch:
        """Returns the real image at a place, fitted as it was compared.

        Raises:
            SourceError: it cannot be read any more.
        """
        image, fit = self._rows[place]
        height, width = self.size
        fitted = fit_image(image.read_pixels(), width, height, fit)
        picture = draw_picture(fitted, is_synthetic=False)
        return RealMatch(image.key, image.class_name, picture, round(similarity, 4))

    def _describe(self, image: SourceImage) -> Descriptors:
        data = image.read_bytes()
        self._hashes.append(hash_bytes(data))
        pixels, (height, width) = decode_image(data, image.place), self.size
        fits = ("crop",) if pixels.shape[:2] == self.size else ("crop", "resize")
        self._rows += [(image, fit) for fit in fits]
        return describe_images(np.stack([fit_image(pixels, width, height, fit) for fit in fits]))


def find_judge(state: RunState) -> Filter | None:
    """Returns the recipe's filter that finds the nearest real image in features, or None."""
    judges = (each for each in state.decider.filters if each.nearness is not None)
    return next((each for each in judges if each.real_images), None)


def match_by_features(judge: Filter, made: Pixels) -> RealMatch:
    """Puts the nearest real image, as a filter measures, beside a made one.

    Raises:
        FactoryError: the real images or the encoder cannot be had.
    """
    height, width = made.shape[:2]
    near = judge.find_nearest(made)
    fitted = fit_image(near.image.read_pixels(), width, height, near.fit)
    picture = draw_picture(fitted, is_synthetic=False)
    return RealMatch(near.image.key, near.image.class_name, picture, None, round(near.distance, 4))
