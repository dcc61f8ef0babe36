"""Results of a study as plain data: the JSON contract, and all that the tables show."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import __version__
from factory.core.stats.intervals import LEVEL
from factory.data.shots import LabelledSet
from factory.evaluate.fewshot.augment import DESCRIPTION
from factory.evaluate.fewshot.labels import describe_judged, explain_shift
from factory.evaluate.fewshot.leaks import mark_arms
from factory.evaluate.fewshot.outcome import Outcome
from factory.evaluate.fewshot.protocol import describe_protocol
from factory.evaluate.fewshot.scores import (
    ROUNDS,
    Resampling,
    Samples,
    pair_arms,
    resample,
    score_arm,
    to_interval,
)
from factory.evaluate.fewshot.settings import (
    ALL_ARMS,
    EPOCHS,
    METRICS,
    MIN_STEPS,
    PRIMARY,
    StudySettings,
)
from factory.evaluate.fewshot.study import Study
from factory.evaluate.fewshot.tuned_results import build_tuned

FEW_DRAWS = 5
"""A percentile bootstrap of n draws is too narrow by about sqrt(1 - 1/n), and more by chance."""

Scored = dict[str, dict[str, Samples]]


def build_results(study: Study) -> dict[str, Any]:
    """Returns what `--json` writes.

    With one count of shots: `arms`, `paired` (balanced accuracy), `settings`, and beside them
    `paired_metrics`, `relative_gain`, `per_class`, `label_fidelity`, `curve`, `images`, `sources`,
    `seconds`, `tuned`, `domain_gap`, `making`, `near_copies`, `marks`, `left_out`, `leaks` and
    `notes`. With several, the same for each below `shots`, and the top level holds those of the
    largest count.
    """
    labels = study.test.index_labels(study.names)
    groups = [image.group for image in study.test.images]
    resampling = resample(labels, groups, study.settings.seeds)
    found = {
        str(outcome.shots): _build_shots(study, outcome, labels, resampling)
        for outcome in study.outcomes
    }
    if len(found) == 1:
        return next(iter(found.values()))
    largest = str(max(outcome.shots for outcome in study.outcomes))
    return {**found[largest], "shots": found}


def _build_shots(
    study: Study, outcome: Outcome, labels: NDArray[np.int64], resampling: Resampling
) -> dict[str, Any]:
    scored: Scored = {}
    per_class: dict[str, Any] = {}
    arms = [arm for arm in ALL_ARMS if arm in outcome.chances]
    for arm in arms:
        scored[arm], by_class = score_arm(outcome.chances[arm], labels, resampling)
        per_class[arm] = {
            name: {
                metric: to_interval(table[:, place]).to_dict() for metric, table in by_class.items()
            }
            for place, name in enumerate(study.names)
        }
    paired = {metric: _show(pair_arms(scored, metric)) for metric in METRICS}
    judged = describe_judged(outcome.judged, study.names)
    return {
        "data": outcome.data,
        "arms": {arm: _show(scored[arm]) for arm in arms},
        "paired": paired[PRIMARY],
        "settings": describe_study(study, outcome, resampling),
        "paired_metrics": paired,
        "relative_gain": _measure_gains(scored),
        "per_class": per_class,
        "label_fidelity": judged,
        **build_tuned(study, outcome, scored, labels, resampling),
        **({} if study.gap is None else {"domain_gap": study.gap}),
        **({"making": outcome.making} if outcome.making else {}),
        "curve": _build_curve(outcome, labels, resampling),
        "images": {arm: outcome.images[arm] for arm in arms},
        "sources": outcome.sources,
        "seconds": {arm: round(outcome.seconds[arm], 1) for arm in arms},
        "near_copies": outcome.copies,
        "marks": mark_arms([*study.leaks, *study.circular], arms),
        "left_out": outcome.left_out,
        "leaks": [str(leak) for leak in study.leaks],
        "notes": [*_list_notes(study, outcome), *filter(None, [explain_shift(judged)])],
    }


def _show(samples: Mapping[str, Samples]) -> dict[str, dict[str, float]]:
    return {name: to_interval(each).to_dict() for name, each in samples.items()}


def _measure_gains(scored: Scored) -> dict[str, dict[str, float]]:
    """Returns arm -> (balanced accuracy - that of `real`) / that of `real`."""
    if "real" not in scored:
        return {}
    base = scored["real"][PRIMARY]
    return _show({arm: each[PRIMARY] / base - 1 for arm, each in scored.items() if arm != "real"})


def _build_curve(
    outcome: Outcome, labels: NDArray[np.int64], resampling: Resampling
) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for count, chances in sorted(outcome.curve.items()):
        scored, _ = score_arm(chances, labels, resampling)
        points.append({"per_class": count, **_show(scored)})
    return points


def _list_notes(study: Study, outcome: Outcome) -> list[str]:
    notes = [*study.notes, *map(str, dict.fromkeys([*study.circular, *study.tuned_circular]))]
    if study.is_split:
        notes.append("no --test: a part of --real, disjoint in patients or slides, is the test")
    if study.settings.seeds == 1:
        notes.append("one draw: the intervals do not cover the choice of shots")
    elif study.settings.seeds < FEW_DRAWS:
        notes.append(
            f"{study.settings.seeds} draws: a bootstrap over so few is too narrow; take "
            f"{FEW_DRAWS} or more before you believe an interval"
        )
    copies = sum(each["near_copies"] for each in outcome.copies)
    if copies:
        highest = max(each["highest_similarity"] for each in outcome.copies)
        notes.append(
            f"NEAR-COPIES of test images among the synthetic ones: {copies} over all draws, "
            f"highest similarity {highest:.3f}"
        )
    return notes


def _describe_set(images: LabelledSet) -> dict[str, Any]:
    return {"path": images.root, "images": len(images), "sha256": images.digest}


def describe_study(study: Study, outcome: Outcome, resampling: Resampling) -> dict[str, Any]:
    """Returns everything that a reader needs to know to repeat the study."""
    settings: StudySettings = study.settings
    told = describe_protocol(dict(settings), study.has_groups)
    if settings.epochs is not None:
        rule = f"{settings.epochs} epochs of each arm's own images"
    elif settings.steps is not None:
        rule = "as asked"
    else:
        rule = f"{EPOCHS} epochs of the shots, at least {MIN_STEPS} steps"
    return {
        **settings.describe_training(),
        **study.learner,
        "shots": outcome.shots,
        "seeds": list(settings.draw_seeds),
        "steps": outcome.steps,
        "steps_rule": rule,
        **({} if settings.epochs is None else {"steps_of": outcome.steps_of}),
        **({} if told is None else {"protocol": told}),
        "per_class": settings.per_class,
        "counts": list(settings.counts),
        "classical": DESCRIPTION,
        "classes": list(study.names),
        "real": _describe_set(study.train),
        "test": {**_describe_set(study.test), "split_from_real": study.is_split},
        "source": study.provider.describe(),
        "set_name": settings.set_name,
        "forced": bool(study.leaks),
        "interval": {
            "level": LEVEL,
            "rounds": ROUNDS,
            "method": "percentile bootstrap over draws and test images (pigeonhole, Owen 2007), "
            "test images within their class; the same rounds for all arms",
            "resampled": f"draws and {resampling.units}",
        },
        "factory_version": __version__,
    }
