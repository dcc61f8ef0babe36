"""`focus`: rejects blurred images."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.color import to_grey
from factory.data.records import Condition, Sample, Verdict
from factory.filters.settings import FocusFilter

WINDOW = 5
"""px, of the blur that an image is compared with: of the size of chromatin grains at 0.25 to 1 µm
per pixel."""


class FocusJudge:
    """Scores `blur_effect` and `sharpness`.

    `blur_effect` in [0, 1], high for blurred: the share of an image's gradients that remain when it
    is blurred once more (Crété-Roffet et al. 2007, SPIE 6492, with a window of 5 px instead of 11);
    it does not depend on contrast. `sharpness` is the variance of the Laplacian of grey in [0, 1]
    (Pech-Pacheco et al. 2000, ICPR, LAP2), high for sharp; it grows with contrast. Both depend on
    the scale, so take thresholds from real images of the same mpp. Each has two sides: noise is
    sharper than tissue and loses more of its gradients (`max_sharpness`, `min_blur`).
    """

    kind: ClassVar[str] = "focus"
    score_names: tuple[str, ...] = ("blur_effect", "sharpness")
    thresholds: ClassVar[Mapping[str, str]] = {
        "max_blur": "blur_effect",
        "min_blur": "blur_effect",
        "min_sharpness": "sharpness",
        "max_sharpness": "sharpness",
    }

    def __init__(self, settings: FocusFilter) -> None:
        self.settings = settings

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns both scores, never NaN; an image without any gradient counts as blurred."""
        from scipy.ndimage import laplace

        greys = [to_grey(sample.pixels) for sample in samples]
        return {
            "blur_effect": np.array([measure_blur(grey) for grey in greys], np.float64),
            "sharpness": np.array([laplace(grey).var() for grey in greys], np.float64),
        }

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects a score on the wrong side of a threshold that is set."""
        for field, name in self.thresholds.items():
            limit = getattr(self.settings, field)
            if limit is None:
                continue
            value, is_least = scores[name], field.startswith("min_")
            if value < limit if is_least else value > limit:
                sign = "<" if is_least else ">"
                return Verdict(False, self.kind, f"{name} {value:g} {sign} {limit:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and revision."""
        return {**self.settings.model_dump(mode="json", exclude_none=True), "revision": "1"}


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
