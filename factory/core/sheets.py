"""Pictures side by side: an image, and what it was asked for, such as its mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GAP = 2
"""px of white between them."""


def set_beside(
    pixels: NDArray[np.uint8], others: Sequence[NDArray[np.uint8]], count: int | None = None
) -> NDArray[np.uint8]:
    """Returns an image with others of its size to its right, (H, W', 3) uint8 RGB.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        others: of the same shape.
        count: room for so many, the rest white; None: as many as there are.
    """
    height, width = pixels.shape[:2]
    room = len(others) if count is None else count
    white = np.full((height, width, 3), 255, np.uint8)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    shown = [*others, *[white] * (room - len(others))]
    return np.hstack([pixels, *(part for other in shown for part in (gap, other))])
