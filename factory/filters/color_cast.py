"""`color_cast`: rejects images whose brightest pixels, which should be glass, are tinted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from factory.core.color import to_grey, to_lab
from factory.core.late import NDArray, np
from factory.filters.base import FilterSettings, Score
from factory.filters.pixels import PixelFilter

BRIGHT_SHARE = 0.05
"""Share of pixels, the brightest, that stand for the light."""
MIN_LIGHTNESS = 90.0
"""CIE L* from which these are glass or pale stroma; darker ones tell stain, not light."""
PALE_TISSUE = (23.0, -16.0)
"""a* and b* of pale H&E tissue: the median of PatchCamelyon's training patches without glass."""


class ColorCastFilter(PixelFilter):
    """Scores `color_cast`: CIE chroma of the brightest pixels, which should be nearly white.

    The brightest patch shows the light (Land & McCann 1971's white patch, as in Finlayson &
    Trezzi 2004 with a share of pixels instead of one). The chroma sqrt(a*^2 + b*^2) of the mean
    CIELAB of the brightest 5 % is 0 for white glass; lower is more neutral. Where these pixels are
    darker than L* 90 they are tissue: `color_cast` is NaN, not applicable, and `tissue_cast` says
    how far they lie from the colour of pale H&E, in a* and b*. Else that is NaN. It is bounded only
    where the recipe says so: other stains are paler in other colours.

    Of real test images at 64 px that have such pixels, 99 % lie below 24 in each of four open sets
    (H&E of lymph node, oral mucosa and colon; Pap).
    """

    scores = (
        Score("color_cast", at_most="max_cast", may_be_nan=True),
        Score("tissue_cast", at_most="max_tissue_cast", may_be_nan=True),
    )

    class Settings(FilterSettings):
        kind: Literal["color_cast"]
        max_cast: float = Field(
            25.0, ge=0.0, description="CIE chroma of the brightest 5 % of pixels"
        )
        max_tissue_cast: float | None = Field(
            None,
            gt=0.0,
            description="where these are tissue: from the colour of pale H&E; 26 suits",
        )

    settings: Settings

    def measure(self, pixels: NDArray[np.uint8]) -> Sequence[float]:
        """Returns the chroma and the distance, at least 0; always one of them is NaN."""
        return measure_casts(pixels)


def measure_casts(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Returns the cast of glass and the cast of tissue of (H, W, 3) uint8 RGB; one is NaN."""
    grey = to_grey(pixels).ravel()
    count = max(1, round(BRIGHT_SHARE * grey.size))
    brightest = np.argpartition(grey, -count)[-count:]
    lightness, a, b = to_lab(pixels.reshape(-1, 3)[brightest]).mean(axis=0)
    if lightness >= MIN_LIGHTNESS:
        return float(np.hypot(a, b)), float("nan")
    return float("nan"), float(np.hypot(a - PALE_TISSUE[0], b - PALE_TISSUE[1]))
