"""Grey values, optical densities and CIELAB: what pixels are measured on."""

from __future__ import annotations

from functools import cache

from factory.core.late import NDArray, np

_LUMA = (0.299, 0.587, 0.114)
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def tabulate_density(white: int = 255) -> NDArray[np.float64]:
    """Returns the optical density log10((white + 1) / (I + 1)) of the 256 values of a channel.

    Beer-Lambert; the one is added so that black stays finite (Ruifrok & Johnston 2001).

    Args:
        white: value of a pixel without tissue.
    """
    return np.asarray(np.log10((white + 1.0) / (np.arange(256) + 1.0)))


@cache
def _tabulate_grey() -> NDArray[np.float32]:
    shares = np.array(_LUMA) / 255.0
    return np.asarray(np.arange(256)[:, None] * shares, np.float32)


@cache
def _tabulate_natural() -> NDArray[np.float32]:
    return np.asarray(np.log(10.0) * tabulate_density(), np.float32)


@cache
def _tabulate_linear() -> NDArray[np.float64]:
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (H, W) float32 luma in [0, 1] of (H, W, 3) uint8 RGB (ITU-R BT.601)."""
    table = _tabulate_grey()
    red, green, blue = (table[pixels[..., i], i] for i in range(3))
    return np.asarray(red + green + blue)


def to_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the optical density of each channel in natural units, float32 >= 0."""
    return np.asarray(_tabulate_natural()[pixels])


def to_lab(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns (N, 3) L*, a*, b* of (N, 3) uint8 sRGB, for daylight D65 (IEC 61966-2-1, CIE 15)."""
    to_xyz = np.array(_TO_XYZ)
    tristimulus = _tabulate_linear()[colors] @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(
        tristimulus > (6 / 29) ** 3,
        np.cbrt(tristimulus),
        tristimulus / (3 * (6 / 29) ** 2) + 4 / 29,
    )
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
