"""`focus`: rejects blurred images."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.filter_settings import FocusFilter
from factory.filters.pixels import to_grey
from factory.records import Condition, Sample, Verdict


class FocusJudge:
    """Scores `sharpness`: the variance of the Laplacian of grey in [0, 1].

    Pech-Pacheco et al. 2000 (ICPR), measure LAP2. It grows with contrast and depends on the scale,
    so take `min_sharpness` from real images of the same mpp (`factory preview` prints it).
    """

    kind: ClassVar[str] = "focus"
    score_names: tuple[str, ...] = ("sharpness",)

    def __init__(self, settings: FocusFilter) -> None:
        self.settings = settings

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns the sharpness, at least 0 and never NaN."""
        from scipy.ndimage import laplace

        found = [laplace(to_grey(s.pixels)).var() for s in samples]
        return {"sharpness": np.array(found, np.float64)}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects what is less sharp than `min_sharpness`."""
        sharpness, least = scores["sharpness"], self.settings.min_sharpness
        if sharpness < least:
            return Verdict(False, self.kind, f"sharpness {sharpness:g} < {least:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold and revision."""
        return {**self.settings.model_dump(mode="json"), "revision": "1"}
