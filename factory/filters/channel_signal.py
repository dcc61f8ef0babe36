"""`channel_signal`: rejects images whose named channels are empty, flat or lit all over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Fraction, Strict
from factory.core.errors import FilterError
from factory.core.late import NDArray, np
from factory.data.records import Condition, Sample, Verdict
from factory.filters.base import Filter, FilterSettings, Score, Scores, read_score, round_limit
from factory.filters.check import FilterCheck
from factory.models.session import Session

PERCENTILES = (1.0, 99.0)


class ChannelBounds(Strict):
    """What one channel must hold; a bound that is not set asks nothing."""

    above: float = Field(0.0, description="a pixel is positive above this value, in its unit")
    min_range: float | None = Field(
        None, ge=0.0, description="99th less 1st percentile, in the unit of the channel"
    )
    min_positive: Fraction | None = Field(None, description="share of positive pixels")
    max_positive: Fraction | None = Field(None, description="likewise")

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.min_positive, self.max_positive
        if low is not None and high is not None and low > high:
            raise ValueError("min_positive lies above max_positive, so that no image passes")
        if self.min_range is None and low is None and high is None:
            raise ValueError("no bound: set min_range, min_positive or max_positive")
        return self


class ChannelSignalFilter(Filter):
    """Scores `range_NAME` and `positive_NAME` of each channel that its settings name.

    The range is the 99th less the 1st percentile of the channel's values, the other the share of
    pixels above its `above`; both are NaN, and the image is rejected, where a value is not finite.
    The measures are stored as they are, so that bounds can be changed afterwards, but for `above`.
    For models whose catalog entry declares `channels`; a blank or saturated marker is what a
    translator gives of glass, or where it fails.
    """

    class Settings(FilterSettings):
        kind: Literal["channel_signal"]
        channels: dict[str, ChannelBounds] = Field(min_length=1, description="name -> its bounds")

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        names = self.settings.channels
        self.scores = tuple(Score(f"{what}_{n}") for n in names for what in ("range", "positive"))

    @property
    def deciding_fields(self) -> tuple[str, ...]:
        """The one that holds the bounds of each channel."""
        return ("channels",)

    def check(self, check: FilterCheck) -> None:
        """Notes channels that the model does not make."""
        made = check.channels
        for name in () if made is None else self.settings.channels:
            if made is not None and name not in made:
                makes = ", ".join(made) or "none beside RGB"
                check.add(f"the model makes no channel {name!r}: it makes {makes}", "channels")

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns two scores of each channel.

        Raises:
            FilterError: a sample without a channel that is named.
        """
        found: dict[str, NDArray[np.float64]] = {}
        for name, bounds in self.settings.channels.items():
            planes = [_find_plane(sample, name) for sample in samples]
            measured = np.array([_measure(plane, bounds.above) for plane in planes]).reshape(-1, 2)
            found[f"range_{name}"], found[f"positive_{name}"] = measured.T
        return found

    def decide(self, scores: Mapping[str, float | None], class_name: str | None = None) -> Verdict:
        """Rejects by the first bound that a channel misses, in the order of the settings.

        Raises:
            FilterError: a score was never stored.
        """
        for name, bounds in self.settings.channels.items():
            for what, low, high in (
                ("range", bounds.min_range, None),
                ("positive", bounds.min_positive, bounds.max_positive),
            ):
                column = f"{what}_{name}"
                if column not in scores:
                    raise FilterError(f"{self.name}: no stored score {column}")
                reason = _find_fault(read_score(scores, column), low, high)
                if reason:
                    return Verdict(False, self.name, f"{column} {reason}")
        return Verdict(True)


def _find_plane(sample: Sample, name: str) -> NDArray[Any]:
    if sample.channels is None or name not in sample.channel_names:
        has = ", ".join(sample.channel_names) or "none beside RGB"
        raise FilterError(f"channel_signal: no channel {name!r}: the model makes {has}")
    found: NDArray[Any] = sample.channels[sample.channel_names.index(name)]
    return found


def _measure(plane: NDArray[Any], above: float) -> tuple[float, float]:
    if not np.isfinite(plane).all():
        return math.nan, math.nan
    low, high = np.percentile(plane.astype(np.float64), PERCENTILES)
    with np.errstate(over="ignore"):  # above all that its type holds is infinity
        return high - low, float((plane > above).mean())


def _find_fault(value: float, low: float | None, high: float | None) -> str:
    if math.isnan(value):
        return "is NaN: a value is not finite"
    if low is not None and value < round_limit(low):
        return f"{value:g} < {low:g}"
    if high is not None and value > round_limit(high):
        return f"{value:g} > {high:g}"
    return ""
