"""`stain`: rejects colours that are not haematoxylin and eosin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from factory.catalog.entries import Fraction
from factory.core.color import tabulate_density
from factory.core.late import NDArray, np
from factory.filters.base import FilterSettings, Score
from factory.filters.pixels import PixelFilter

HUE_RANGE = (20.0, 175.0)
"""Degrees in the hue-saturation-density plane. The reference vectors of Ruifrok & Johnston 2001 lie
at 66 (haematoxylin) and 122 (eosin), those of Macenko et al. 2009 at 90 and 156."""
MAX_RED_SHARE = 0.5
"""Largest red component c_x of the plane: haematoxylin 0.19; blue inks lie above."""
MAX_SATURATION = 1.2
MIN_DENSITY = 0.08
"""Mean log10 optical density below which a pixel is background."""
SATURATION_FLOOR = 0.1
"""Below it a pixel counts as grey, and so against the score."""
WHITE_QUANTILE = 0.95
MIN_WHITE = 180
"""The background is taken from the image's own bright pixels, but never darker than this."""


class StainFilter(PixelFilter):
    """Scores `stain_plausibility`: how much of the stain colour is haematoxylin and eosin.

    Each pixel's optical density, relative to the image's own background, is turned into hue and
    saturation that do not depend on the amount of stain (HSD, van der Laak et al. 2000, Cytometry
    39:275). The score is the share, weighted by density times saturation, of pixels in the region
    around the published H and E vectors; grey pixels have no weight above but a floor below, so
    that a grey image scores 0. An image without any stained pixel scores 0.

    The region is wide: it holds over 99 % of PatchCamelyon and of oral-mucosa patches with strong
    colour casts, and rejects grey, green, yellow, cyan, solid, inverted and noise images. It cannot
    tell a wrong tissue, nor blue from red swapped, which gives violet again. A residual to fixed
    H and E vectors was tried first: real slides lie up to 20 degrees off that plane, and grey 18.5.
    """

    scores = (Score("stain_plausibility", at_least="min_plausibility"),)

    class Settings(FilterSettings):
        kind: Literal["stain"]
        min_plausibility: Fraction = 0.5

    def measure(self, pixels: NDArray[np.uint8]) -> Sequence[float]:
        """Returns the plausibility in [0, 1], never NaN."""
        return (measure_plausibility(pixels),)


def measure_plausibility(pixels: NDArray[np.uint8]) -> float:
    """Returns the plausibility of one (H, W, 3) uint8 RGB image, in [0, 1]."""
    red, green, blue = (_measure_density(pixels[..., channel]) for channel in range(3))
    density = (red + green + blue) / 3.0
    stained = density > MIN_DENSITY
    red, green, blue, density = red[stained], green[stained], blue[stained], density[stained]
    across = red / density - 1.0
    up = (green - blue) / (np.float32(3.0**0.5) * density)
    saturation = np.hypot(across, up)
    first, last = (np.radians(angle) for angle in HUE_RANGE)
    hue = np.arctan2(up, across)
    inside = (hue > first) & (hue < last) & (across < MAX_RED_SHARE) & (saturation < MAX_SATURATION)
    above = float((density * saturation)[inside].sum())
    below = float((density * np.maximum(saturation, SATURATION_FLOOR)).sum())
    return min(1.0, above / below) if below > 0 else 0.0


def _measure_density(channel: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns (H, W) float32 log10 optical density relative to the background of the channel."""
    counts = np.bincount(channel.ravel(), minlength=256)
    white = int(np.searchsorted(np.cumsum(counts), WHITE_QUANTILE * channel.size))
    white = max(white, MIN_WHITE)
    table = np.maximum(tabulate_density(white), 0.0)
    return np.asarray(table.astype(np.float32)[channel])
