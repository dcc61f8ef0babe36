"""Grey values and optical densities: what the pixel filters measure on."""

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114]) / 255.0
_GREY = (np.arange(256)[:, None] * _LUMA).astype(np.float32)
_DENSITY = -np.log((np.arange(256) + 1.0) / 256.0).astype(np.float32)


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (H, W) float32 luma in [0, 1] of (H, W, 3) uint8 RGB (ITU-R BT.601)."""
    red, green, blue = (_GREY[pixels[..., i], i] for i in range(3))
    return np.asarray(red + green + blue)


def to_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the optical density -ln((I + 1) / 256) of each channel, float32 >= 0.

    Beer-Lambert with white light at 256; the one is added so that black stays finite
    (Ruifrok & Johnston 2001).
    """
    return np.asarray(_DENSITY[pixels])
