"""`finite`: rejects images that are NaN, blank, constant or saturated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from factory.catalog.entries import Fraction
from factory.core.color import to_grey
from factory.core.late import np
from factory.data.records import NONFINITE, Condition, Sample, round_nonfinite
from factory.filters.base import Filter, FilterSettings, Score, Scores


class FiniteFilter(Filter):
    """Scores non-finite values, contrast and saturation.

    `nonfinite_fraction` is the share of values that were NaN or infinite before quantising: a
    pipeline that meets NaN returns a black image and raises nothing. It is never rounded down to 0.
    `contrast` is the grey standard deviation / 255, `saturated_fraction` the share of pixels with a
    channel at 0 or 255. Of an image of named channels, whose composite lies on black, it is the
    share of pixels with a channel at the top of its integer type; numbers with a fraction have
    none.
    """

    scores = (
        Score(NONFINITE),
        Score("contrast", at_least="min_contrast"),
        Score("saturated_fraction", at_most="max_saturated_fraction"),
    )

    class Settings(FilterSettings):
        kind: Literal["finite"]
        min_contrast: float = Field(
            0.01, ge=0.0, le=1.0, description="grey standard deviation / 255"
        )
        max_saturated_fraction: Fraction = Field(
            0.5, description="pixels with a channel at 0 or 255"
        )

    settings: Settings

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns the three scores, none of them NaN."""
        contrast = [to_grey(s.pixels).std() for s in samples]
        saturated = [_measure_saturated(sample) for sample in samples]
        return {
            NONFINITE: np.array([round_nonfinite(s.nonfinite) for s in samples]),
            "contrast": np.array(contrast, np.float64),
            "saturated_fraction": np.array(saturated, np.float64),
        }


def _measure_saturated(sample: Sample) -> float:
    channels = sample.channels
    if channels is None:
        return float(((sample.pixels == 0) | (sample.pixels == 255)).any(-1).mean())
    if channels.dtype.kind != "u":
        return 0.0
    return float((channels == np.iinfo(channels.dtype).max).any(0).mean())
