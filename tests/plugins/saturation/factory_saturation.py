"""`saturation`: rejects images with little colour."""

from typing import Literal

import numpy as np
from pydantic import Field

from factory.filters.base import Filter, FilterSettings, Score


class Saturation(Filter):
    """Scores `mean_saturation`: the mean of (max - min) / 255 of the three channels."""

    scores = (Score("mean_saturation", at_least="min_saturation"),)

    class Settings(FilterSettings):
        """Rejects images with little colour."""

        kind: Literal["saturation"]
        min_saturation: float = Field(0.1, ge=0.0, le=1.0, description="mean over all pixels")

    def score(self, samples, conditions):
        return {"mean_saturation": [np.ptp(each.pixels, axis=-1).mean() / 255 for each in samples]}
