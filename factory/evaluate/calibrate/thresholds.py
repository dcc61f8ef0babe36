"""Thresholds from stored scores: what each keeps, and the strictest that keeps enough real images.

Every decision is a filter's own `decide`, under settings with one threshold changed: nothing here
compares a score with a threshold.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from factory.catalog.acceptance import parse_rule
from factory.data.records import SCORE_DECIMALS
from factory.evaluate.calibrate.scored import Scored
from factory.filters import Decide, build_decide, build_filters
from factory.filters.base import Filter, FilterSettings
from factory.models.session import Session

CURVE_POINTS = 61
MAX_WHOLE = 1000
"""Largest threshold on the curve of a field that takes whole numbers only."""
STEP = 10.0**-SCORE_DECIMALS
Mask = NDArray[np.bool_]
Value = float | dict[str, float]
"""A threshold: one number, or class -> number."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One threshold of a filter: field `name` of the filter at `position` bounds `score`."""

    position: int
    kind: str
    name: str
    score: str

    @property
    def is_lower(self) -> bool:
        """True where scores of at least the threshold pass: low thresholds are loose."""
        return self.name.startswith("min_")

    @property
    def path(self) -> str:
        """As `--set` names it."""
        return f"filters.{self.kind}.{self.name}"


class Decider:
    """Decides on scored images as a run would, under changed thresholds.

    Args:
        settings: the recipe's filters.
        session: where they look up what they need.
        accept: the recipe's; None: all must accept.
    """

    def __init__(
        self, settings: Sequence[FilterSettings], session: Session, accept: str | None
    ) -> None:
        self.settings, self.accept, self._session = tuple(settings), accept, session
        self.rule = None if accept is None else parse_rule(accept)
        self.filters = build_filters(self.settings, session)
        self.decide_now = build_decide(self.filters, accept)
        self.bounds = tuple(
            Bound(position, judge.name, name, score)
            for position, judge in enumerate(self.filters)
            for name, score in judge.thresholds.items()
        )

    def read_value(self, bound: Bound) -> Value | None:
        """Returns the threshold as the recipe has it; None where it bounds nothing."""
        value: Value | None = getattr(self.settings[bound.position], bound.name)
        return value

    def find_two_sided(self) -> Bound | None:
        """Returns a threshold that bounds a score from below, as another does from above."""
        on = [bound for bound in self.bounds if self.read_value(bound) is not None]
        above = {(each.position, each.score) for each in on if not each.is_lower}
        both = (each for each in on if each.is_lower and (each.position, each.score) in above)
        return next(both, None)

    def allows(self, bound: Bound, value: Value) -> bool:
        """Says whether the field takes this value."""
        return self._change(self.settings[bound.position], {bound.name: value}) is not None

    def read_back(self, bound: Bound, value: float) -> float:
        """Returns an allowed value as the field holds it: a whole number where it takes no other.

        Raises:
            ValueError: the field does not take it.
        """
        changed = self._change(self.settings[bound.position], {bound.name: value})
        if changed is None:
            raise ValueError(f"{bound.path} does not take {value}")
        held: float = getattr(changed, bound.name)
        return held

    def decide(self, rows: Sequence[Scored], values: Mapping[Bound, Value]) -> Mask:
        """Returns (N,) whether a run with these thresholds instead would accept."""
        filters = list(self.filters)
        for position in {bound.position for bound in values}:
            mine = {b.name: value for b, value in values.items() if b.position == position}
            filters[position] = self._build(position, mine)
        return _decide_rows(build_decide(filters, self.accept), rows)

    def decide_alone(
        self, rows: Sequence[Scored], bound: Bound, value: Value, opened: Mapping[str, Value | None]
    ) -> Mask:
        """Returns (N,) whether this threshold accepts, the filter's others being as in `opened`."""
        judge = self._build(bound.position, {**opened, bound.name: value})
        return _decide_rows(build_decide((judge,), None), rows)

    def open_others(self, rows: Sequence[Scored], bound: Bound) -> dict[str, Value | None]:
        """Returns the filter's other thresholds, off or so loose that they reject none of the rows.

        One that can be neither is left as it is.
        """
        opened: dict[str, Value | None] = {}
        settings = self.settings[bound.position]
        # The one looked at is on meanwhile: a filter may want one threshold at least.
        seen = (round_outwards(score, bound) for score in list_scores(rows, bound))
        on = next((value for value in seen if self.allows(bound, value)), None)
        for other in self.bounds:
            if other.position != bound.position or other is bound:
                continue
            scores = list_scores(rows, other)
            extreme = min if other.is_lower else max
            ways: list[Value | None] = [None]
            ways += [round_outwards(extreme(scores), other)] if scores else []
            for way in ways:
                if self._change(settings, {bound.name: on, other.name: way}) is not None:
                    opened[other.name] = way
                    break
        return opened

    def _build(self, position: int, values: Mapping[str, Value | None]) -> Filter:
        changed = self._change(self.settings[position], values)
        if changed is None:
            raise ValueError(f"{self.settings[position].name} does not take {dict(values)}")
        return build_filters((changed,), self._session)[0]

    @staticmethod
    def _change(
        settings: FilterSettings, values: Mapping[str, Value | None]
    ) -> FilterSettings | None:
        try:
            return settings.change(values)
        except ValidationError:
            return None


def round_outwards(score: float, bound: Bound) -> float:
    """Rounds a score to `SCORE_DECIMALS` towards the loose side, so that it passes itself."""
    value = round(score, SCORE_DECIMALS)
    if value > score and bound.is_lower:
        value -= STEP
    elif value < score and not bound.is_lower:
        value += STEP
    return round(value, SCORE_DECIMALS) + 0.0


def list_scores(rows: Sequence[Scored], bound: Bound) -> list[float]:
    """Returns the scores of the rows that have one."""
    scores = (row.scores[bound.score] for row in rows)
    return [score for score in scores if not math.isnan(score)]


def select_applicable(rows: Sequence[Scored], bound: Bound) -> list[Scored]:
    """Returns the rows whose score is a number."""
    return [row for row in rows if not math.isnan(row.scores[bound.score])]


def propose_threshold(
    decider: Decider, rows: Sequence[Scored], bound: Bound, keep: float
) -> float | None:
    """Returns the strictest threshold that keeps at least a share of the rows that have the score.

    It is one of their scores: found by bisection, as a looser threshold never keeps less. The
    filter's other thresholds play no part.

    Returns:
        A number of `SCORE_DECIMALS` decimals; None where no row has the score, or where the field
        takes no value that keeps enough.
    """
    mine = select_applicable(rows, bound)
    found = {round_outwards(row.scores[bound.score], bound) for row in mine}
    allowed = sorted(value for value in found if decider.allows(bound, value))
    strict_first = allowed[::-1] if bound.is_lower else allowed
    opened = decider.open_others(mine, bound)

    def keeps(value: float) -> bool:
        accepted = decider.decide_alone(mine, bound, value, opened)
        return bool(accepted.sum() >= keep * len(mine) - 1e-9)

    first, last = 0, len(strict_first)
    while first < last:
        middle = (first + last) // 2
        if keeps(strict_first[middle]):
            last = middle
        else:
            first = middle + 1
    if first == len(strict_first):
        return None
    return decider.read_back(bound, strict_first[first])


def choose_loosest(values: Iterable[float | None], bound: Bound) -> float | None:
    """Returns the threshold that keeps enough of every class: the loosest of theirs."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return min(known) if bound.is_lower else max(known)


def place_points(decider: Decider, rows: Sequence[Scored], bound: Bound) -> list[float]:
    """Returns `CURVE_POINTS` ascending thresholds over all scores and the present threshold."""
    seen = list_scores(rows, bound)
    if not seen:
        return []
    now = decider.read_value(bound)
    seen += [] if now is None else [*now.values()] if isinstance(now, dict) else [now]
    low, high = round(min(seen), SCORE_DECIMALS), round(max(seen), SCORE_DECIMALS)
    least = 2 * STEP * CURVE_POINTS
    if high - low < least:
        windows = ((low - least, high + least), (low - least, high), (low, high + least))
        low, high = next(
            (each for each in windows if all(decider.allows(bound, end) for end in each)),
            (low, high),
        )
    points = {round(float(each), SCORE_DECIMALS) for each in np.linspace(low, high, CURVE_POINTS)}
    if all(
        isinstance(decider.read_back(bound, x), int) for x in points if decider.allows(bound, x)
    ):
        points |= {float(x) for x in range(math.floor(low), min(math.ceil(high), MAX_WHOLE) + 1)}
    return sorted(each + 0.0 for each in points if decider.allows(bound, each))


def _decide_rows(decide: Decide, rows: Sequence[Scored]) -> Mask:
    return np.array([decide(row.scores, row.class_name).accepted for row in rows], np.bool_)
