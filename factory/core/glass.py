"""Glass, lumen and background of an image stay what they are in another that is made of it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from factory.core.stains import find_tissue

LEAST_RADIUS = 2
"""px: what is narrower is pale tissue rather than glass, and is made anew with the rest."""
FEATHER = 1.0
"""Standard deviation, px, of the seam between glass and tissue."""


def find_glass(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns (H, W) bool: lumen and background, 5 px wide or more, of an (H, W, 3) uint8 image.

    What `find_tissue` does not take for tissue, opened morphologically; the border hides nothing.
    """
    bare = np.pad(~find_tissue(pixels[None])[0], LEAST_RADIUS, mode="edge")
    across = np.arange(-LEAST_RADIUS, LEAST_RADIUS + 1)
    disc = np.hypot(*np.meshgrid(across, across)) <= LEAST_RADIUS + 0.5
    opened = ndimage.binary_opening(bare, disc)
    inner = slice(LEAST_RADIUS, -LEAST_RADIUS)
    return np.asarray(opened[inner, inner])


def keep_glass(
    made: NDArray[np.uint8], source: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], float]:
    """Blends the glass of a source into what was made of it.

    Args:
        made: (H, W, 3) uint8 RGB.
        source: of the same shape.

    Returns:
        The blended image, and the share of its pixels that are glass, in [0, 1].
    """
    glass = find_glass(source)
    if not glass.any():
        return made, 0.0
    weight = ndimage.gaussian_filter(glass.astype(np.float64), FEATHER, truncate=3.0)[..., None]
    blended = weight * source + (1.0 - weight) * made
    return np.rint(blended).astype(np.uint8), float(glass.mean())
