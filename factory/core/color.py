"""Grey values, optical densities and CIELAB: what pixels are measured on."""

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114]) / 255.0
_GREY = (np.arange(256)[:, None] * _LUMA).astype(np.float32)


def tabulate_density(white: int = 255) -> NDArray[np.float64]:
    """Returns the optical density log10((white + 1) / (I + 1)) of the 256 values of a channel.

    Beer-Lambert; the one is added so that black stays finite (Ruifrok & Johnston 2001).

    Args:
        white: value of a pixel without tissue.
    """
    return np.asarray(np.log10((white + 1.0) / (np.arange(256) + 1.0)))


OPTICAL_DENSITY = tabulate_density().astype(np.float32)
"""(256,) float32: optical density of an 8-bit value, 0 for 255."""
_NATURAL = (np.log(10.0) * tabulate_density()).astype(np.float32)


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (H, W) float32 luma in [0, 1] of (H, W, 3) uint8 RGB (ITU-R BT.601)."""
    red, green, blue = (_GREY[pixels[..., i], i] for i in range(3))
    return np.asarray(red + green + blue)


def to_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the optical density of each channel in natural units, float32 >= 0."""
    return np.asarray(_NATURAL[pixels])


_LINEAR = np.where(
    np.arange(256) / 255 <= 0.04045,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
)
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def to_lab(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns (N, 3) L*, a*, b* of (N, 3) uint8 sRGB, for daylight D65 (IEC 61966-2-1, CIE 15)."""
    tristimulus = _LINEAR[colors] @ _TO_XYZ.T / _TO_XYZ.sum(axis=1)
    root = np.where(
        tristimulus > (6 / 29) ** 3,
        np.cbrt(tristimulus),
        tristimulus / (3 * (6 / 29) ** 2) + 4 / 29,
    )
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
