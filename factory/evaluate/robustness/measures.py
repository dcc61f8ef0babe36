"""What is measured in images of families, and how much of it is noise of the measure."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.attributes import MEASURED
from factory.core.images import decode_image
from factory.core.metrics.structure import compare_structure, correlate_in_tissue
from factory.core.stain_transfer import measure_look, normalise
from factory.core.stains import count_nuclei, measure_attributes

Values = NDArray[np.float64]

JPEG = 80
"""Quality at which an image is saved and read again, to tell how much of a measure is noise."""
COLOUR = ("haematoxylin", "eosin", "stain_l", "stain_alpha", "stain_beta")
"""What a stain is: strengths of its dyes in nuclei and outside, and its mean in l-alpha-beta."""
READS_STAIN = ("nuclear_density", "nuclear_size")
"""Measured above a level of haematoxylin: another stain moves them where no nucleus moves."""
NORMALISED = "normalised "
"""Begins the name of what is measured once images have one stain (`normalise`)."""
_AGAIN = (*READS_STAIN, "tissue", "fat")
ATTRIBUTES = (
    *MEASURED,
    *COLOUR[2:],
    *(f"{NORMALISED}{name}" for name in (*_AGAIN, "nuclei")),
)
"""All that is measured in pixels."""


def measure_pixels(images: NDArray[np.uint8]) -> dict[str, Values]:
    """Returns (N,) of each of ATTRIBUTES, of (N, H, W, 3) uint8 RGB; NaN where there is none."""
    plain = normalise(images)
    found: dict[str, Any] = dict(measure_attributes(images))
    looks = [measure_look([each]) for each in images]
    for place, name in enumerate(COLOUR[2:]):
        found[name] = [np.nan if look is None else look.mean[place] for look in looks]
    again = measure_attributes(plain)
    found |= {f"{NORMALISED}{name}": again[name] for name in _AGAIN}
    found[f"{NORMALISED}nuclei"] = count_nuclei(plain)
    return {name: np.asarray(found[name], np.float64) for name in ATTRIBUTES}


def spoil(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns (N, H, W, 3) uint8 RGB images as they are once saved as JPEG of quality `JPEG`."""
    found = []
    for each in images:
        buffer = io.BytesIO()
        Image.fromarray(each).save(buffer, "JPEG", quality=JPEG)
        found.append(decode_image(buffer.getvalue(), "a copy as JPEG"))
    return np.stack(found)


def compare_pairs(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> dict[str, Values]:
    """Returns (N,) how much of the structure of images others of the same shape have.

    `haematoxylin`: correlation of its planes within the tissue; `ssim`: of the grey values once
    both have one stain.
    """
    return {
        "haematoxylin": correlate_in_tissue(one, other),
        "ssim": compare_structure(normalise(one), normalise(other)),
    }


def list_own(varied: str, asked: str | None, colours: Sequence[str]) -> tuple[str, ...]:
    """Returns the measures of what is varied: those that were asked to move.

    Args:
        varied: what is.
        asked: the measure that a grid reads it by, if any.
        colours: names of what changes the stain and nothing else.
    """
    if varied in colours:
        return COLOUR
    if asked is None:
        return ()
    normalised = f"{NORMALISED}{asked}"
    also = {"nuclear_density": (f"{NORMALISED}nuclei",)}.get(asked, ())
    return (asked, *([normalised] if normalised in ATTRIBUTES else []), *also)
