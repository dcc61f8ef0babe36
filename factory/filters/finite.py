"""`finite`: rejects images that are NaN, blank, constant or saturated."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.filter_settings import FiniteFilter
from factory.filters.pixels import to_grey
from factory.records import SCORE_DECIMALS, Condition, Sample, Verdict


class FiniteJudge:
    """Scores non-finite values, contrast and saturation.

    `nonfinite_fraction` is the share of values that were NaN or infinite before quantising: a
    pipeline that meets NaN returns a black image and raises nothing. It is never rounded down to 0.
    `contrast` is the grey standard deviation / 255, `saturated_fraction` the share of pixels with a
    channel at 0 or 255.
    """

    kind: ClassVar[str] = "finite"
    score_names: tuple[str, ...] = ("nonfinite_fraction", "contrast", "saturated_fraction")
    thresholds: ClassVar[Mapping[str, str]] = {
        "min_contrast": "contrast",
        "max_saturated_fraction": "saturated_fraction",
    }

    def __init__(self, settings: FiniteFilter) -> None:
        self.settings = settings

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns the three scores, none of them NaN."""
        least = 10.0**-SCORE_DECIMALS
        shares = [s.nonfinite_fraction for s in samples]
        contrast = [to_grey(s.pixels).std() for s in samples]
        saturated = [((s.pixels == 0) | (s.pixels == 255)).any(-1).mean() for s in samples]
        return {
            "nonfinite_fraction": np.array([max(v, least) if v > 0 else 0.0 for v in shares]),
            "contrast": np.array(contrast, np.float64),
            "saturated_fraction": np.array(saturated, np.float64),
        }

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects any non-finite value, too little contrast, too much saturation."""
        if scores["nonfinite_fraction"] > 0:
            return self._reject(f"nonfinite_fraction {scores['nonfinite_fraction']:g} > 0")
        contrast, least = scores["contrast"], self.settings.min_contrast
        if contrast < least:
            return self._reject(f"contrast {contrast:g} < {least:g}")
        saturated, most = scores["saturated_fraction"], self.settings.max_saturated_fraction
        if saturated > most:
            return self._reject(f"saturated_fraction {saturated:g} > {most:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and revision."""
        return {**self.settings.model_dump(mode="json"), "revision": "1"}

    def _reject(self, reason: str) -> Verdict:
        return Verdict(False, self.kind, reason)
