"""How far a candidate's scores lie from the thresholds that decide about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.calibrate.thresholds import Value

Scores = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold in force: `score` must be at least, or at most, `value` (class -> number)."""

    filter: str
    field: str
    score: str
    value: Value
    is_lower: bool
    decides: bool

    def find_value(self, class_name: str | None) -> float | None:
        """Returns the threshold of a class; None where it bounds none."""
        if isinstance(self.value, Mapping):
            return None if class_name is None else self.value.get(class_name)
        return self.value

    def list_values(self) -> list[float]:
        """Returns the thresholds of all classes."""
        return list(self.value.values()) if isinstance(self.value, Mapping) else [self.value]


@dataclass(frozen=True, slots=True)
class Margin:
    """A score beside its threshold.

    Attributes:
        limit: which threshold.
        score: the candidate's.
        value: the threshold of its class.
        slack: how far it is on the accepted side, in standard deviations of the score; negative on
            the rejected side.
    """

    limit: Limit
    score: float
    value: float
    slack: float

    def __str__(self) -> str:
        passes = "≥" if self.limit.is_lower else "≤"
        fails = "<" if self.limit.is_lower else ">"
        sign = passes if self.slack >= 0 else fails
        return f"{self.limit.score} {self.score:g} {sign} {self.value:g}"


class Spread:
    """Count, mean, deviation and extremes of a score, gathered block by block (Chan et al. 1979).

    NaN are passed by.
    """

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds (N,) values."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        mean, total = float(values.mean()), self.count + len(values)
        gap = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum())
        self._squares += gap * gap * self.count * len(values) / total
        self.mean += gap * len(values) / total
        self.count = total
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    @property
    def deviation(self) -> float:
        """Standard deviation, 0 where nothing was added."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


def measure_margins(
    limits: Sequence[Limit], spreads: Mapping[str, Spread], scores: Scores, class_name: str | None
) -> list[Margin]:
    """Returns the margin at every threshold that decides about a candidate."""
    found = []
    for limit in limits:
        score, value = scores.get(limit.score), limit.find_value(class_name)
        if not limit.decides or score is None or value is None or math.isnan(score):
            continue
        gap = score - value if limit.is_lower else value - score
        unit = spreads[limit.score].deviation if limit.score in spreads else 0.0
        found.append(Margin(limit, score, value, gap / (unit or 1.0)))
    return found


def find_nearest_margin(
    margins: Sequence[Margin], rejected_by: str | None, has_rule: bool
) -> Margin | None:
    """Returns the margin that says how near a candidate was to the other verdict.

    Accepted: its least slack. Rejected: what it missed by most, as it must meet all thresholds; of
    the rejecting filter alone where `accept` combines filters otherwise. None where no threshold
    decided.
    """
    if rejected_by is None:
        return min(margins, key=lambda margin: abs(margin.slack), default=None)
    missed = [margin for margin in margins if margin.slack < 0]
    if has_rule or all(margin.limit.filter != rejected_by for margin in missed):
        missed = [margin for margin in missed if margin.limit.filter == rejected_by]
    return min(missed, key=lambda margin: margin.slack, default=None)
