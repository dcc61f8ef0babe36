"""Quality filters: from a recipe's kinds to scores and a verdict for each candidate.

Deciding imports neither torch nor scikit-learn: thresholds can be changed on stored scores alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.catalog.acceptance import Rule
from factory.core.errors import FilterError
from factory.data.records import NONFINITE, SCORE_DECIMALS, Condition, Sample, Verdict
from factory.filters.base import Filter, PerClassFilter, Surroundings
from factory.filters.settings import FilterSettings
from factory.models.encoders.pool import EncoderPool

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs

FILTERS: dict[str, tuple[str, str]] = {
    "finite": ("factory.filters.finite", "FiniteJudge"),
    "tissue": ("factory.filters.tissue", "TissueJudge"),
    "focus": ("factory.filters.focus", "FocusJudge"),
    "stain": ("factory.filters.stain", "StainJudge"),
    "color_cast": ("factory.filters.color_cast", "ColorCastJudge"),
    "classifier": ("factory.filters.classifier", "ClassifierJudge"),
    "agreement": ("factory.filters.agreement", "AgreementJudge"),
    "zero_shot": ("factory.filters.zero_shot", "ZeroShotJudge"),
    "alignment": ("factory.filters.alignment", "AlignmentJudge"),
    "realism": ("factory.filters.realism", "RealismJudge"),
    "training_copy": ("factory.filters.training_copy", "TrainingCopyJudge"),
    "near_duplicate": ("factory.filters.near_duplicate", "NearDuplicateJudge"),
}
"""A recipe's `kind` -> module and class, imported on use."""


PLAIN = frozenset({"finite", "tissue", "focus", "stain", "color_cast", "near_duplicate"})
"""Kinds that need nothing but the image."""


def build_filters(
    recipe_filters: Sequence[FilterSettings], base: Path, catalogs: "Catalogs"
) -> tuple[Filter, ...]:
    """Builds the filters of a recipe, in its order; models load at the first score.

    Args:
        recipe_filters: their settings.
        base: folder of the recipe, which relative paths start from.
        catalogs: where ids are looked up.
    """
    surroundings = Surroundings(base, catalogs, EncoderPool(catalogs))
    built: list[Filter] = []
    for settings in recipe_filters:
        module, name = FILTERS[settings.kind]
        kind = getattr(import_module(module), name)
        built.append(kind(settings, *(() if settings.kind in PLAIN else (surroundings,))))
    return tuple(built)


def list_score_names(recipe_filters: Sequence[FilterSettings]) -> tuple[str, ...]:
    """Returns the scores that a recipe's filters write, in its order."""
    found: list[str] = []
    for settings in recipe_filters:
        module, name = FILTERS[settings.kind]
        found.extend(getattr(import_module(module), name).score_names)
    return tuple(found)


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


def describe_for_duplicates(
    filters: Sequence[FilterSettings], samples: Sequence[Sample]
) -> list[Any]:
    """Returns one descriptor per sample, or None where near-duplicates are not looked for."""
    if all(settings.kind != "near_duplicate" for settings in filters):
        return [None] * len(samples)
    from factory.core.thumbnails import describe_images

    return map_by_size(describe_images, samples)


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
            raise FilterError(f"{judge.kind}: wrote {sorted(scores)}, not {judge.score_names}")
        for name in judge.score_names:
            values = np.round(np.asarray(scores[name], np.float64), SCORE_DECIMALS)
            if values.shape != (len(samples),) or np.isinf(values).any():
                raise FilterError(
                    f"{judge.kind}: {name} is not one number for each image: {values}"
                )
            for row, value in zip(rows, values.tolist(), strict=True):
                if name in row:
                    raise FilterError(f"{judge.kind}: another filter has written {name} already")
                row[name] = value + 0.0  # no negative zero: it would print and hash differently


def decide_all(
    filters: Sequence[Filter],
    scores: Mapping[str, float],
    accept: Rule | None = None,
    class_name: str | None = None,
) -> Verdict:
    """Decides on one candidate from its stored scores; the first filter that rejects is named.

    Args:
        filters: in recipe order.
        scores: of one candidate.
        accept: which of them must accept; None: all. Filters that it does not name only score.
        class_name: what the candidate was asked to show, for thresholds that differ by class.

    An image with a value that is not finite is rejected whatever the filters are and say. A NaN
    score lets an image pass only where its filter declares it as not always applicable.

    Raises:
        FilterError: a score that a decision needs was never stored.
    """
    share = scores.get(NONFINITE, 0.0)
    if not share <= 0:
        return Verdict(False, "finite", f"{NONFINITE} {share:g} > 0")
    if accept is not None:
        return _decide_by_rule(filters, scores, accept, class_name)
    for judge in filters:
        verdict = _decide(judge, scores, class_name)
        if not verdict.accepted:
            return verdict
    return Verdict(True)


def _decide_by_rule(
    filters: Sequence[Filter], scores: Mapping[str, float], accept: Rule, class_name: str | None
) -> Verdict:
    named = [judge for judge in filters if judge.kind in accept.kinds]
    verdicts = {judge.kind: _decide(judge, scores, class_name) for judge in named}
    if accept.holds(lambda kind: verdicts[kind].accepted):
        return Verdict(True)
    rejecting = [verdict for verdict in verdicts.values() if not verdict.accepted]
    return rejecting[0] if rejecting else Verdict(False, "accept", f"not: {accept.text}")


def _decide(judge: Filter, scores: Mapping[str, float], class_name: str | None) -> Verdict:
    stored = _StoredScores(judge.kind, scores)
    allowed: frozenset[str] = getattr(judge, "may_be_nan", frozenset())
    for field, name in judge.thresholds.items():
        is_bounded = getattr(getattr(judge, "settings", None), field, None) is not None
        if is_bounded and name not in allowed and math.isnan(stored[name]):
            return Verdict(False, judge.kind, f"{name} is NaN, and always applies")
    if isinstance(judge, PerClassFilter):
        return judge.decide_class(stored, class_name)
    return judge.decide(stored)


class _StoredScores(dict[str, float]):
    """Scores of one candidate; only those that a decision asks for need to be there."""

    def __init__(self, kind: str, scores: Mapping[str, float]) -> None:
        super().__init__(scores)
        self.kind = kind

    def __missing__(self, name: str) -> float:
        raise FilterError(
            f"{self.kind}: no stored score {name}: the filter, or this score of it, was not there "
            "when the images were scored"
        )
