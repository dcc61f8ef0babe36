"""`tissue`: rejects images with too little tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from factory.catalog.entries import Fraction
from factory.core.color import to_density
from factory.core.late import NDArray, np
from factory.filters.base import FilterSettings, Score
from factory.filters.pixels import PixelFilter

MIN_DENSITY = 0.15
"""Optical density above which a pixel is stained: beta of Macenko et al. 2009 (ISBI), which most
implementations apply to natural-log densities, as here."""


class TissueFilter(PixelFilter):
    """Scores `tissue_fraction`: the share of pixels whose mean optical density exceeds 0.15.

    A fixed threshold instead of Otsu's, which always finds two groups, even on a blank image. Grey
    and dark pixels count as tissue whatever their colour: `stain` judges colour.
    """

    scores = (Score("tissue_fraction", at_least="min_fraction"),)

    class Settings(FilterSettings):
        kind: Literal["tissue"]
        min_fraction: Fraction = 0.3

    def measure(self, pixels: NDArray[np.uint8]) -> Sequence[float]:
        """Returns the share of tissue in [0, 1], never NaN."""
        return ((to_density(pixels).sum(-1) > 3 * MIN_DENSITY).mean(),)
