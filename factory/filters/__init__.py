"""Quality filters: from a recipe's kinds to scores and a verdict for each candidate.

Deciding imports neither torch nor scikit-learn: thresholds can be changed on stored scores alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factory.catalog.acceptance import Rule, parse_rule
from factory.core.errors import FilterError
from factory.core.late import np
from factory.core.registry import Registry
from factory.data.records import (
    FORESEEN,
    NONFINITE,
    SCORE_DECIMALS,
    STOPPED,
    Condition,
    Sample,
    Verdict,
)
from factory.filters.base import Filter, FilterSettings, Labels, read_score
from factory.models.session import Session

FILTERS = Registry("factory.filters", Filter, "factory.filters")  # type: ignore[type-abstract]
"""All kinds: those of this package, each a module, and those of plug-ins."""

EARLY = "early"
"""What rejects a try that was stopped part-way."""

Decide = Callable[[Mapping[str, float | None], str | None], Verdict]
"""Decides from stored scores, and the class that was asked for."""


def build_filters(recipe_filters: Sequence[FilterSettings], session: Session) -> tuple[Filter, ...]:
    """Builds the filters of a recipe, in its order; models load at the first score.

    Args:
        recipe_filters: their settings.
        session: where they look up files, catalogs and models.
    """
    return tuple(FILTERS.get(each.kind)(each, session) for each in recipe_filters)


def build_decide(filters: Sequence[Filter], accept: str | None) -> Decide:
    """Returns what decides: the same in a run, refilter, calibrate, report and verify.

    Args:
        filters: in recipe order.
        accept: the recipe's; None: all must accept.
    """
    rule = None if accept is None else parse_rule(accept)

    return lambda scores, class_name: decide_all(filters, scores, rule, class_name)


def needs_class(summarised: Mapping[str, Any]) -> bool:
    """Whether a filter, as a summary tells it, judges nothing without a class.

    False for one that is not known here and does not say so.
    """
    kind = summarised["kind"]
    return bool(
        FILTERS.get(kind).needs_class if kind in FILTERS.names else summarised.get("needs_class")
    )


def list_labels(described: Mapping[str, Any]) -> Sequence[Labels]:
    """Returns the labels that a filter learned from; of a kind that is not known here, none.

    Args:
        described: its settings, or what a run recorded of it.
    """
    kind = described["kind"]
    return FILTERS.get(kind).list_labels(described) if kind in FILTERS.names else ()


def score_all(
    filters: Sequence[Filter], samples: Sequence[Sample], conditions: Sequence[Condition]
) -> list[dict[str, float]]:
    """Scores every candidate by every filter, rounded to `SCORE_DECIMALS`.

    This is the one place that rounds: what it returns is stored, compared and compared again.

    Args:
        filters: in recipe order.
        samples: N images.
        conditions: what each was asked to show.

    Returns:
        N mappings of score name to value; NaN where a score does not apply.

    Raises:
        FilterError: a filter failed, or returned other scores than it declares.
    """
    if len(samples) != len(conditions):
        raise FilterError(f"{len(samples)} samples but {len(conditions)} conditions")
    rows: list[dict[str, float]] = [{} for _ in samples]
    for same in group_by_size(samples):
        _score_rows(
            filters,
            [samples[i] for i in same],
            [conditions[i] for i in same],
            [rows[i] for i in same],
        )
    return rows


def group_by_size(samples: Sequence[Sample]) -> list[list[int]]:
    """Returns the positions of samples of equal height and width together, in order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(sample.pixels.shape, []).append(position)
    return list(groups.values())


def map_by_size(compute: Callable[[Any], Any], samples: Sequence[Sample]) -> list[Any]:
    """Returns what `compute` makes of (N, H, W, 3) images, those of one size at a time."""
    found: list[Any] = [None] * len(samples)
    for same in group_by_size(samples):
        values = compute(np.stack([samples[i].pixels for i in same]))
        for position, value in zip(same, values, strict=True):
            found[position] = value
    return found


def _score_rows(
    filters: Sequence[Filter],
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    rows: Sequence[dict[str, float]],
) -> None:
    """Scores samples of one size by every filter into their rows."""
    for judge in filters:
        scores = judge.score(samples, conditions)
        if set(scores) != set(judge.score_names):
            raise FilterError(f"{judge.name}: wrote {sorted(scores)}, not {judge.score_names}")
        for name in judge.score_names:
            values = np.round(np.asarray(scores[name], np.float64), SCORE_DECIMALS)
            if values.shape != (len(samples),) or np.isinf(values).any():
                raise FilterError(
                    f"{judge.name}: {name} is not one number for each image: {values}"
                )
            for row, value in zip(rows, values.tolist(), strict=True):
                if name in row:
                    raise FilterError(f"{judge.name}: another filter has written {name} already")
                row[name] = value + 0.0  # no negative zero: it would print and hash differently


def decide_all(
    filters: Sequence[Filter],
    scores: Mapping[str, float | None],
    accept: Rule | None = None,
    class_name: str | None = None,
) -> Verdict:
    """Decides on one candidate from its stored scores; the first filter that rejects is named.

    Args:
        filters: in recipe order.
        scores: of one candidate; None, as tables have it, is NaN.
        accept: which of them must accept; None: all. Filters that it does not name only score.
        class_name: what the candidate was asked to show, for thresholds that differ by class.

    A try that was stopped part-way, and an image with a value that is not finite, are rejected
    whatever the filters are and say; all else is each filter's own `decide`.

    Raises:
        FilterError: a score that a decision needs was never stored.
    """
    stopped = read_score(scores, STOPPED) if STOPPED in scores else 0.0
    if stopped > 0:
        seen = ", ".join(f"{k} {v:g}" for k, v in scores.items() if v and k.startswith(FORESEEN))
        return Verdict(False, EARLY, f"{STOPPED} {stopped:g} > 0: {seen}")
    share = read_score(scores, NONFINITE) if NONFINITE in scores else 0.0
    if not share <= 0:
        return Verdict(False, "finite", f"{NONFINITE} {share:g} > 0")
    if accept is not None:
        return _decide_by_rule(filters, scores, accept, class_name)
    verdicts = (judge.decide(scores, class_name) for judge in filters)
    return next((each for each in verdicts if not each.accepted), Verdict(True))


def _decide_by_rule(
    filters: Sequence[Filter],
    scores: Mapping[str, float | None],
    accept: Rule,
    class_name: str | None,
) -> Verdict:
    named = [judge for judge in filters if judge.name in accept.kinds]
    verdicts = {judge.name: judge.decide(scores, class_name) for judge in named}
    if accept.holds(lambda name: verdicts[name].accepted):
        return Verdict(True)
    rejecting = [verdict for verdict in verdicts.values() if not verdict.accepted]
    return rejecting[0] if rejecting else Verdict(False, "accept", f"not: {accept.text}")
