"""Bringing real images to a size: at their own scale, or whole; and what of them is then seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from factory.core.errors import SourceError
from factory.core.late import NDArray, np
from factory.core.notes import tell
from factory.data.images.image import SourceImage

LEAST_SHARE = 0.25
"""Share of an image's area below which a crop is told: classes may lie in what is not seen."""
MOST_SIZES = 512
"""Images whose headers are read, evenly chosen: a set is mostly of one size."""


def fit_image(
    pixels: NDArray[np.uint8], width: int, height: int, fit: str = "crop"
) -> NDArray[np.uint8]:
    """Brings an image to (height, width, 3) uint8.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        width: px.
        height: px.
        fit: `crop` cuts the centre at the source's own scale, so that mpp is kept; it enlarges what
            is too small, which callers that promise the scale refuse (`fit_source`) and others
            tell; `resize` takes the largest centred area of the right aspect and resamples it
            (Lanczos).
    """
    source_height, source_width = pixels.shape[:2]
    scale = max(width / source_width, height / source_height)
    if fit == "crop":
        scale = max(scale, 1.0)
    area = (min(source_width, round(width / scale)), min(source_height, round(height / scale)))
    left, top = (source_width - area[0]) // 2, (source_height - area[1]) // 2
    cut = pixels[top : top + area[1], left : left + area[0]]
    if cut.shape[:2] == (height, width):
        return cut
    return np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.LANCZOS))


def fit_source(
    pixels: NDArray[np.uint8], width: int, height: int, fit: str, place: str
) -> NDArray[np.uint8]:
    """Does what `fit_image` does, but never enlarges where `crop` promises the image's own scale.

    Raises:
        SourceError: under `crop`, an image smaller than the size; names its place.
    """
    _refuse_smaller((pixels.shape[1], pixels.shape[0]), (width, height), fit, place)
    return fit_image(pixels, width, height, fit)


def read_fitted(image: SourceImage, width: int, height: int, fit: str) -> NDArray[np.uint8]:
    """Returns an image as (height, width, 3) uint8 RGB.

    Raises:
        SourceError: it cannot be read, or is smaller than the size under `crop`.
    """
    return fit_source(image.read_pixels(), width, height, fit, image.place)


def check_fit(
    images: Sequence[SourceImage],
    width: int,
    height: int,
    fit: str,
    root: Path | str,
    read_size: Callable[[SourceImage], tuple[int, int]] = SourceImage.read_size,
) -> None:
    """Tells where a crop shows little of the images, and refuses images that it would enlarge.

    Raises:
        SourceError: under `crop`, an image smaller than the size, or one that cannot be read.
    """
    for size, image in tell_crop(images, (width, height), fit, root, read_size):
        _refuse_smaller(size, (width, height), fit, image.place)


def tell_crop(
    images: Sequence[SourceImage],
    target: tuple[int, int],
    fit: str,
    root: Path | str,
    read_size: Callable[[SourceImage], tuple[int, int]] = SourceImage.read_size,
) -> list[tuple[tuple[int, int], SourceImage]]:
    """Tells where a crop shows less than a quarter of an image's area; returns sizes that it read.

    Raises:
        SourceError: an image that cannot be read.
    """
    if fit != "crop" or not images:
        return []
    read = [(read_size(image), image) for image in images[:: -(-len(images) // MOST_SIZES)]]
    size, image = max(read, key=lambda each: each[0][0] * each[0][1])
    if target[0] * target[1] < LEAST_SHARE * size[0] * size[1]:
        tell(f"{root}: {describe_crop(target, size)}, such as {image.key}: {RESIZE}")
    return read


RESIZE = "`fit: resize` (--fit resize) shows all, at another scale (mpp)"


def describe_crop(target: tuple[int, int], size: tuple[int, int]) -> str:
    """Says how much of an image of `size` (width, height) a centre crop of `target` shows."""
    share = target[0] * target[1] / (size[0] * size[1])
    return (
        f"`fit: crop` shows the centre {target[0]} x {target[1]} px, {share:.1%} of the area of an "
        f"image of {size[0]} x {size[1]} px"
    )


def _refuse_smaller(size: tuple[int, int], target: tuple[int, int], fit: str, place: str) -> None:
    if fit == "crop" and (size[0] < target[0] or size[1] < target[1]):
        raise SourceError(
            f"{place}: {size[0]} x {size[1]} px, but {target[0]} x {target[1]} px are asked for, "
            "and `fit: crop` keeps the scale (mpp), so it enlarges nothing: take `fit: resize` "
            "(--fit resize), larger images, or a smaller size"
        )
