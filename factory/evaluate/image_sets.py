"""An image set to measure: which images, their classes, captions, groups and ids, one size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory.core import fields
from factory.core.hashing import compute_digest
from factory.core.places import name_place
from factory.data.images import SourceImage, fit_image, iterate_rows, list_images, tell_crop
from factory.data.images.image import Wanted
from factory.data.varied import Varied, read_varied
from factory.evaluate.measured import describe_data

Fit = Literal["crop", "resize"]
BLOCK = 64
"""Images in memory at a time."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of one source, read on demand as (size, size, 3).

    Attributes:
        root: folder or file that they come from.
        images: in the order of the source.
        found: how many there were before some were chosen.
        size: px.
        fit: as in `factory.data.images.fit_image`.
        sample_ids: (N,) of factory's own rows; None for others.
        references: (N,) the real image that a row varies, as the row says; None for none.
        files: that all images lie in, chosen or not.
    """

    root: Path
    images: tuple[SourceImage, ...]
    found: int
    size: int
    fit: Fit
    sample_ids: tuple[str | None, ...]
    references: tuple[Varied | None, ...]
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def name(self) -> str:
        """The last two parts of where it lies, for tables."""
        return name_place(self.root.absolute())

    @property
    def labels(self) -> tuple[str | None, ...]:
        """(N,) class of each image, None where it has none."""
        return tuple(image.class_name for image in self.images)

    @property
    def captions(self) -> tuple[str | None, ...]:
        """(N,) caption of each image, None where it has none."""
        return tuple(image.caption for image in self.images)

    @property
    def groups(self) -> tuple[str | None, ...]:
        """(N,) patient or slide of each image, None where it is not known."""
        return tuple(image.group for image in self.images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes present, sorted; empty where there are none."""
        return tuple(sorted({name for name in self.labels if name is not None}))

    def find_rows(self, class_name: str | None) -> NDArray[np.int64]:
        """Returns the positions of a class, or all for None."""
        if class_name is None:
            return np.arange(len(self.images))
        return np.flatnonzero([name == class_name for name in self.labels])

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        """Returns some of the images, in the order of `rows`."""
        return replace(
            self,
            images=tuple(self.images[row] for row in rows),
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            references=tuple(self.references[row] for row in rows),
        )

    def iterate_blocks(self, block: int = BLOCK) -> Iterator[NDArray[np.uint8]]:
        """Yields all images in order as (B, size, size, 3) uint8 RGB, B at most `block`.

        Raises:
            SourceError: an image that cannot be read.
        """
        for start in range(0, len(self.images), block):
            yield self.read(range(start, min(start + block, len(self.images))))

    def read(self, places: Iterable[int]) -> NDArray[np.uint8]:
        """Returns some images by their places in the order, (B, size, size, 3) uint8 RGB.

        Raises:
            SourceError: an image that cannot be read.
        """
        part = (self.images[place] for place in places)
        fitted = (fit_image(each.read_pixels(), self.size, self.size, self.fit) for each in part)
        return np.stack([*fitted])

    def read_all(self) -> NDArray[np.uint8]:
        """Returns all images at once, (N, size, size, 3) uint8 RGB.

        Raises:
            SourceError: an image that cannot be read.
        """
        empty = np.zeros((0, self.size, self.size, 3), np.uint8)
        return np.concatenate([empty, *self.iterate_blocks()])

    def describe_data(self) -> dict[str, Any]:
        """Returns which images these are: name, digest and number of all, chosen or not."""
        return describe_data(self.root, self.files, self.found)

    def describe(self) -> dict[str, Any]:
        """Returns what a result says of the set: path, counts, size and fit."""
        groups = {group for group in self.groups if group is not None}
        return {
            "path": str(self.root),
            "images": len(self.images),
            "found": self.found,
            "classes": dict(sorted(Counter(name for name in self.labels if name).items())),
            "without_class": sum(name is None for name in self.labels),
            "groups": len(groups) or None,
            "size": self.size,
            "fit": self.fit,
        }


def read_columns(settings: fields.SetOptions) -> Wanted:
    """Returns which columns of real images the settings name."""
    return Wanted(
        settings.image_column, group=settings.group_column, pattern=settings.group_pattern
    )


def list_set(
    root: Path,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    max_images: int | None = None,
    seed: int = 0,
    columns: Wanted | None = None,
) -> ImageSet:
    """Lists a set from any source that `factory.data.images.list_images` reads; no pixels are kept.

    Args:
        root: ImageFolder, parquet, `datasets` folder, WebDataset tars or finished run.
        size: px; default: the smallest side of its images.
        fit: `crop` keeps the scale, `resize` the content.
        max_images: how many to choose; default: all.
        seed: of the choice, which hangs on names alone: another limit takes more of the same.
        columns: of images, classes, captions, patients or slides; default: the usual names.

    Raises:
        SourceError: nothing there, no images, or a column that is missing.
    """
    wanted = columns or Wanted()
    listed = list_images(
        root,
        image_column=wanted.image,
        label_column=wanted.label,
        caption_column=wanted.caption,
        group_column=wanted.group,
        group_pattern=wanted.pattern,
    )
    images = listed
    if max_images is not None and max_images < len(listed):
        ranks = [compute_digest("evaluated image", [seed, image.key]) for image in listed]
        chosen = sorted(sorted(range(len(listed)), key=ranks.__getitem__)[:max_images])
        images = tuple(listed[row] for row in chosen)
    side = find_smallest_side(images) if size is None else size
    tell_crop(images, (side, side), fit, root)
    return ImageSet(
        root,
        images,
        len(listed),
        side,
        fit,
        tuple(row.get("sample_id") for row in iterate_rows(images, ("sample_id",))),
        read_varied(images),
        tuple(dict.fromkeys(image.path for image in listed)),
    )


def find_smallest_side(images: Sequence[SourceImage]) -> int:
    """Returns the smallest height or width, px; reads headers only.

    Raises:
        SourceError: an image that cannot be read.
    """
    return min(min(image.read_size()) for image in images)


def count_smaller(images: Sequence[SourceImage], size: int) -> int:
    """Returns how many images have a side below `size` px, and so are enlarged.

    Raises:
        SourceError: an image that cannot be read.
    """
    return sum(min(image.read_size()) < size for image in images)
