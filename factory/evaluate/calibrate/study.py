"""What a calibration says: distributions, curves, proposals and their costs, as plain data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.data.records import SCORE_DECIMALS
from factory.evaluate.calibrate.costs import Ask, describe_share, is_short, measure_cost
from factory.evaluate.calibrate.scored import MISLABELLED, NO_CLASS, REAL, SETS, SYNTHETIC, Scored
from factory.evaluate.calibrate.thresholds import (
    Bound,
    Decider,
    Mask,
    Value,
    choose_loosest,
    list_scores,
    place_points,
    propose_threshold,
    select_applicable,
)

KEEPS = (0.99, 0.95, 0.9, 0.8)
"""Shares of real images whose price is told beside the wished one."""
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class ScoredSets:
    """Scored images of both sets, how to decide on them, and what a run would ask for.

    Proposals rest on the real images, or, without any, on the synthetic ones.

    Attributes:
        decider: of the recipe's filters.
        rows: of both sets.
        asks: series of the recipe.
        attempts: budget per request.
        seconds: per synthetic candidate.
        keep: share of real images of every class that a threshold must keep.
    """

    decider: Decider
    rows: tuple[Scored, ...]
    asks: tuple[Ask, ...]
    attempts: int
    seconds: float
    keep: float

    @property
    def real(self) -> list[Scored]:
        """The real images."""
        return self.select(REAL)

    @property
    def synthetic(self) -> list[Scored]:
        """The first tries."""
        return self.select(SYNTHETIC)

    def select(self, name: str) -> list[Scored]:
        """Returns the rows of one of `SETS`."""
        return [row for row in self.rows if row.set == name]

    @property
    def groups(self) -> list[str]:
        """Classes of either set, sorted."""
        return sorted({row.group for row in self.rows})

    def describe(self) -> dict[str, Any]:
        """Returns `fields`, `now`, `proposed` (all thresholds at once), and `choices` of `keep`."""
        fields = [self._describe_bound(bound) for bound in self.decider.bounds]
        proposed = self._collect(self.keep)
        choices = []
        for keep in sorted({*KEEPS, self.keep}, reverse=True):
            values = self._collect(keep)
            choices.append({"keep": keep, **self._name(values), **self._measure(values)})
        return {
            "classes": self.groups,
            "fields": fields,
            "now": self._measure({}),
            "proposed": {**self._name(proposed), **self._measure(proposed)},
            "choices": choices,
        }

    def propose(self, bound: Bound, keep: float) -> dict[str, float | None]:
        """Returns the strictest threshold of each class that keeps enough of its images."""
        basis = self.real or self.synthetic
        return {
            group: propose_threshold(
                self.decider, [row for row in basis if row.group == group], bound, keep
            )
            for group in sorted({row.group for row in basis})
        }

    def _collect(self, keep: float) -> dict[Bound, Value]:
        """Returns the proposals for all thresholds that are on."""
        found: dict[Bound, Value] = {}
        for bound in self.decider.bounds:
            now = self.decider.read_value(bound)
            if now is None:
                continue
            value = self._form(bound, self.propose(bound, keep), now)
            if value is not None:
                found[bound] = value
        return found

    def _form(
        self, bound: Bound, by_group: Mapping[str, float | None], now: Value | None
    ) -> Value | None:
        """One number for all classes, or, where the recipe has class -> number, likewise."""
        loosest = choose_loosest(by_group.values(), bound)
        if loosest is None or not isinstance(now, dict):
            return loosest
        known = {group: value for group, value in by_group.items() if value is not None}
        return {group: known.get(group, loosest) for group in self.groups if group != NO_CLASS}

    @staticmethod
    def _name(values: Mapping[Bound, Value]) -> dict[str, Any]:
        return {"thresholds": {bound.path: value for bound, value in values.items()}}

    def _measure(self, values: Mapping[Bound, Value]) -> dict[str, Any]:
        """Returns what all filters together keep of the real images, and what a run would cost."""
        measured: dict[str, Any] = {}
        for name in (REAL, MISLABELLED):
            rows = self.select(name)
            accepted = self.decider.decide(rows, values)
            measured[name] = {
                group: describe_share(accepted[mine]) for group, mine in _split(rows).items()
            }
        return {**measured, SYNTHETIC: self._measure_cost(values)}

    def _measure_cost(self, values: Mapping[Bound, Value]) -> dict[str, Any]:
        rows = self.synthetic
        accepted = self.decider.decide(rows, values)
        return measure_cost(rows, accepted, self.asks, self.attempts, self.seconds)

    def _describe_bound(self, bound: Bound) -> dict[str, Any]:
        decider, now = self.decider, self.decider.read_value(bound)
        by_group = self.propose(bound, self.keep)
        proposed = self._form(bound, by_group, now)
        per_class = {g: v for g, v in by_group.items() if v is not None and g != NO_CLASS}
        takes_classes = bool(per_class) and decider.allows(bound, per_class)
        sets = {
            name: {
                group: self._describe_group([rows[i] for i in mine], bound, now, proposed)
                for group, mine in _split(rows).items()
            }
            for name, rows in self._list_sets(bound)
        }
        return {
            "filter": bound.kind,
            "field": bound.name,
            "path": bound.path,
            "score": bound.score,
            "accepts": "at least" if bound.is_lower else "at most",
            "shown": self._is_shown(bound),
            "now": now,
            "proposed": proposed,
            "per_class": by_group,
            "takes_classes": takes_classes,
            "sets": sets,
            "curve": self._draw_curve(bound),
            "cost": {
                "now": self._measure_cost({}),
                "proposed": None if proposed is None else self._measure_cost({bound: proposed}),
            },
        }

    def _is_shown(self, bound: Bound) -> bool:
        """Says whether people should see it: it is on, or no threshold of its filter is."""
        mine = [each for each in self.decider.bounds if each.position == bound.position]
        on = [each for each in mine if self.decider.read_value(each) is not None]
        return bound in (on or mine)

    def _list_sets(self, bound: Bound) -> list[tuple[str, list[Scored]]]:
        """Returns the rows by set; mislabelled ones only where the class changes the score."""
        rows = {name: self.select(name) for name in SETS}
        pairs = zip(rows[REAL], rows[MISLABELLED], strict=False)
        ours = [(a.scores[bound.score], b.scores[bound.score]) for a, b in pairs]
        if all(a == b for a, b in ours if not math.isnan(a + b)):
            rows[MISLABELLED] = []
        return list(rows.items())

    def _describe_group(
        self, rows: Sequence[Scored], bound: Bound, now: Value | None, proposed: Value | None
    ) -> dict[str, Any]:
        scores = list_scores(rows, bound)
        applicable = select_applicable(rows, bound)
        return {
            "images": len(rows),
            "not_applicable": len(rows) - len(scores),
            "quantiles": _describe_scores(scores),
            "scores": sorted(scores),
            "now": self._keep_share(applicable, bound, now),
            "proposed": self._keep_share(applicable, bound, proposed),
        }

    def _keep_share(
        self, rows: Sequence[Scored], bound: Bound, value: Value | None
    ) -> dict[str, Any] | None:
        if value is None:
            return None
        opened = self.decider.open_others(self.rows, bound)
        return describe_share(self.decider.decide_alone(rows, bound, value, opened))

    def _draw_curve(self, bound: Bound) -> dict[str, Any]:
        """Acceptance against threshold: by this threshold alone, and by all filters as they are."""
        points = place_points(self.decider, self.rows, bound)
        opened = self.decider.open_others(self.rows, bound)
        curve: dict[str, Any] = {"thresholds": points}
        for name, rows in self._list_sets(bound):
            applicable = select_applicable(rows, bound)
            masks = [self.decider.decide_alone(applicable, bound, x, opened) for x in points]
            curve[name] = _average(applicable, masks)
        tries = self.synthetic
        curve["run"] = _average(tries, [self.decider.decide(tries, {bound: x}) for x in points])
        return curve


def list_short(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the series of `now` or `proposed` that are expected to end under their count."""
    return [series for series in part["synthetic"]["series"] if is_short(series)]


def _split(rows: Sequence[Scored]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(row.group, []).append(number)
    return dict(sorted(found.items()))


def _average(rows: Sequence[Scored], masks: Sequence[Mask]) -> dict[str, list[float]]:
    return {
        group: [round(float(mask[mine].mean()), 4) for mask in masks]
        for group, mine in _split(rows).items()
    }


def _describe_scores(scores: Sequence[float]) -> dict[str, float] | None:
    if not scores:
        return None
    values = np.quantile(scores, QUANTILES)
    return {
        f"{share:g}": round(float(value), SCORE_DECIMALS)
        for share, value in zip(QUANTILES, values, strict=True)
    }
