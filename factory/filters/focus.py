"""`focus`: rejects blurred images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Fraction
from factory.core.color import to_grey
from factory.core.late import NDArray, np
from factory.filters.base import FilterSettings, Score
from factory.filters.pixels import PixelFilter

WINDOW = 5
"""px, of the blur that an image is compared with: of the size of chromatin grains at 0.25 to 1 µm
per pixel."""


class FocusFilter(PixelFilter):
    """Scores `blur_effect` and `sharpness`.

    `blur_effect` in [0, 1], high for blurred: the share of an image's gradients that remain when it
    is blurred once more (Crété-Roffet et al. 2007, SPIE 6492, with a window of 5 px instead of 11);
    it does not depend on contrast. `sharpness` is the variance of the Laplacian of grey in [0, 1]
    (Pech-Pacheco et al. 2000, ICPR, LAP2), high for sharp; it grows with contrast. Both depend on
    the scale, so take thresholds from real images of the same mpp. Each has two sides: noise is
    sharper than tissue and loses more of its gradients (`max_sharpness`, `min_blur`).
    """

    scores = (
        Score("blur_effect", at_least="min_blur", at_most="max_blur"),
        Score("sharpness", at_least="min_sharpness", at_most="max_sharpness"),
    )

    class Settings(FilterSettings):
        kind: Literal["focus"]
        max_blur: Fraction | None = Field(
            None,
            description="blur effect; of sharp patches of 64 px under 0.62, blurred by 2 px 0.68",
        )
        min_blur: Fraction | None = Field(
            None, description="blur effect; of real patches of 64 px over 0.31, of pure noise 0.25"
        )
        min_sharpness: float | None = Field(
            None, ge=0.0, description="variance of the Laplacian of grey in [0, 1]"
        )
        max_sharpness: float | None = Field(
            None, gt=0.0, description="likewise; noise and salt and pepper lie above"
        )

        @model_validator(mode="after")
        def _check_thresholds(self) -> Self:
            bounds = (self.max_blur, self.min_blur, self.min_sharpness, self.max_sharpness)
            if all(bound is None for bound in bounds):
                raise ValueError("no threshold: set max_blur (0.65 suits 64 px) or min_sharpness")
            return self

    settings: Settings

    def measure(self, pixels: NDArray[np.uint8]) -> Sequence[float]:
        """Returns both scores, never NaN; an image without any gradient counts as blurred."""
        from scipy.ndimage import laplace

        grey = to_grey(pixels)
        return measure_blur(grey), laplace(grey).var()


def measure_blur(grey: NDArray[np.float32]) -> float:
    """Returns the blur effect in [0, 1] of a (H, W) grey image: that of its more blurred axis."""
    from scipy.ndimage import sobel, uniform_filter1d

    inner = (slice(2, -1), slice(2, -1))
    found = []
    for axis in (0, 1):
        edges = np.abs(sobel(grey, axis=axis))[inner]
        left = np.abs(sobel(uniform_filter1d(grey, WINDOW, axis=axis), axis=axis))[inner]
        total = float(edges.sum(dtype=np.float64))
        lost = float(np.maximum(edges - left, 0).sum(dtype=np.float64))
        found.append((total - lost) / total if total > 1e-6 * edges.size else 1.0)
    return max(found)
