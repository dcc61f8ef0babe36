"""`tissue`: rejects images with too little tissue."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.color import to_density
from factory.data.records import Condition, Sample, Verdict
from factory.filters.settings import TissueFilter

MIN_DENSITY = 0.15
"""Optical density above which a pixel is stained: beta of Macenko et al. 2009 (ISBI), which most
implementations apply to natural-log densities, as here."""


class TissueJudge:
    """Scores `tissue_fraction`: the share of pixels whose mean optical density exceeds 0.15.

    A fixed threshold instead of Otsu's, which always finds two groups, even on a blank image. Grey
    and dark pixels count as tissue whatever their colour: `stain` judges colour.
    """

    kind: ClassVar[str] = "tissue"
    score_names: tuple[str, ...] = ("tissue_fraction",)
    thresholds: ClassVar[Mapping[str, str]] = {"min_fraction": "tissue_fraction"}

    def __init__(self, settings: TissueFilter) -> None:
        self.settings = settings

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns the share of tissue in [0, 1], never NaN."""
        shares = [(to_density(s.pixels).sum(-1) > 3 * MIN_DENSITY).mean() for s in samples]
        return {"tissue_fraction": np.array(shares, np.float64)}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects less tissue than `min_fraction`."""
        fraction, least = scores["tissue_fraction"], self.settings.min_fraction
        if fraction < least:
            return Verdict(False, self.kind, f"tissue_fraction {fraction:g} < {least:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold and revision."""
        return {**self.settings.model_dump(mode="json"), "revision": "1"}
