"""`color_cast`: rejects images whose glass is tinted."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.filter_settings import ColorCastFilter
from factory.filters.pixels import to_grey, to_lab
from factory.records import Condition, Sample, Verdict

BRIGHT_SHARE = 0.05
"""Share of pixels, the brightest, that stand for the light."""
MIN_LIGHTNESS = 90.0
"""CIE L* from which these are glass or pale stroma; darker ones tell stain, not light."""


class ColorCastJudge:
    """Scores `color_cast`: CIE chroma of the brightest pixels, which should be nearly white.

    The brightest patch shows the light (Land & McCann 1971's white patch, as in Finlayson &
    Trezzi 2004 with a share of pixels instead of one). The chroma sqrt(a*^2 + b*^2) of the mean
    CIELAB of the brightest 5 % is 0 for white glass; lower is more neutral. Where these pixels are
    darker than L* 90 they are tissue and tell nothing: NaN, accepted. It sees no cast in images
    without glass or pale stroma; `stain` judges their colours.

    Of real test images at 64 px that have such pixels, 99 % lie below 24 in each of four open sets
    (H&E of lymph node, oral mucosa and colon; Pap).
    """

    kind: ClassVar[str] = "color_cast"
    score_names: tuple[str, ...] = ("color_cast",)
    thresholds: ClassVar[Mapping[str, str]] = {"max_cast": "color_cast"}

    def __init__(self, settings: ColorCastFilter) -> None:
        self.settings = settings

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns the chroma, at least 0; NaN without bright pixels."""
        return {"color_cast": np.array([measure_cast(each.pixels) for each in samples])}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects more than `max_cast`; NaN is accepted."""
        cast, most = scores["color_cast"], self.settings.max_cast
        if cast > most:
            return Verdict(False, self.kind, f"color_cast {cast:g} > {most:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold and revision."""
        return {**self.settings.model_dump(mode="json"), "revision": "1"}


def measure_cast(pixels: NDArray[np.uint8]) -> float:
    """Returns the chroma of the brightest pixels of (H, W, 3) uint8 RGB; NaN if they are dark."""
    grey = to_grey(pixels).ravel()
    count = max(1, round(BRIGHT_SHARE * grey.size))
    brightest = np.argpartition(grey, -count)[-count:]
    lightness, a, b = to_lab(pixels.reshape(-1, 3)[brightest]).mean(axis=0)
    return float(np.hypot(a, b)) if lightness >= MIN_LIGHTNESS else float("nan")
