"""A picture of the closest pairs: each synthetic image beside the real one nearest to it."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from factory.data.images import fit_image
from factory.evaluate.copies.similarity import turn_like
from factory.evaluate.image_sets import ImageSet

TILE = 160
"""px of the shorter pictures; larger images are shown at up to TILE, smaller ones enlarged."""
GAP, TEXT, COLUMNS = 14, 46, 4
TITLES = {
    "by_similarity": "most similar by the descriptors of training_copy",
    "by_distance": "nearest in the encoder's features, by how near real images are there",
}


def draw_gallery(result: Mapping[str, Any], train: ImageSet, synthetic: ImageSet) -> bytes:
    """Returns a PNG of both lists of pairs; real images are flipped and turned to match.

    Args:
        result: what `study_copies` measured.
        train: the real images.
        synthetic: the synthetic images.

    Raises:
        SourceError: an image that cannot be read.
    """
    blocks = [(TITLES[by], result["pairs"][by]) for by in TITLES]
    columns = min(COLUMNS, max(len(pairs) for _, pairs in blocks))
    width = columns * (2 * TILE + GAP) + GAP
    height = 70 + sum(34 + _count_rows(pairs, columns) * (TILE + TEXT) for _, pairs in blocks)
    picture = Image.new("RGB", (max(width, 700), height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 12), f"{synthetic.name}: {result['scope']}", "black", _font(17))
    draw.text((GAP, 40), "left synthetic, right real; turned to match", "dimgrey", _font(13))
    top = 70
    for title, pairs in blocks:
        draw.text((GAP, top + 6), title, "black", _font(15))
        top += 34
        for number, pair in enumerate(pairs):
            left = GAP + number % columns * (2 * TILE + GAP)
            place = (left, top + number // columns * (TILE + TEXT))
            _draw_pair(picture, draw, place, pair, _read_pair(pair, train, synthetic))
        top += _count_rows(pairs, columns) * (TILE + TEXT)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _read_pair(
    pair: Mapping[str, Any], train: ImageSet, synthetic: ImageSet
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns the synthetic image as it is compared, and the real one in the same pose."""
    size = synthetic.size
    image = synthetic.images[pair["row"]].read_pixels()
    made = fit_image(image, size, size, synthetic.fit)
    pixels = train.images[pair["position"]].read_pixels()
    real = fit_image(pixels, size, size, pair["fit"])
    return made, turn_like(real, made)


def _draw_pair(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    pair: Mapping[str, Any],
    images: Sequence[NDArray[np.uint8]],
) -> None:
    left, top = place
    for number, pixels in enumerate(images):
        tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
        picture.paste(tile, (left + number * TILE, top))
    said = f"similarity {pair['similarity']:.3f}, distance ratio {pair['distance_ratio']:.2f}"
    said += ", blank" if pair["blank"] else ""
    draw.text((left, top + TILE + 2), said, "black", _font(12))
    named = f"{_cut(pair['synthetic'])} | {_cut(pair['real'])}"
    draw.text((left, top + TILE + 18), named, "dimgrey", _font(11))


def _cut(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _count_rows(pairs: Sequence[Any], columns: int) -> int:
    return -(-len(pairs) // columns)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
