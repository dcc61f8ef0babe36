"""`finite`: rejects images that are NaN, blank, constant or saturated."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.color import to_grey
from factory.data.records import NONFINITE, Condition, Sample, Verdict, round_nonfinite
from factory.filters.settings import FiniteFilter


class FiniteJudge:
    """Scores non-finite values, contrast and saturation.

    `nonfinite_fraction` is the share of values that were NaN or infinite before quantising: a
    pipeline that meets NaN returns a black image and raises nothing. It is never rounded down to 0.
    `contrast` is the grey standard deviation / 255, `saturated_fraction` the share of pixels with a
    channel at 0 or 255.
    """

    kind: ClassVar[str] = "finite"
    score_names: tuple[str, ...] = (NONFINITE, "contrast", "saturated_fraction")
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
        contrast = [to_grey(s.pixels).std() for s in samples]
        saturated = [((s.pixels == 0) | (s.pixels == 255)).any(-1).mean() for s in samples]
        return {
            NONFINITE: np.array([round_nonfinite(s.nonfinite_fraction) for s in samples]),
            "contrast": np.array(contrast, np.float64),
            "saturated_fraction": np.array(saturated, np.float64),
        }

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects too little contrast and too much saturation.

        A value that is not finite is rejected before any filter is asked, see `decide_all`.
        """
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
