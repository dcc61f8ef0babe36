"""What classifiers tuned inside the shots gave, scored: beside which every gain is told."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.fewshot.leaks import mark_arms
from factory.evaluate.fewshot.outcome import Outcome
from factory.evaluate.fewshot.scores import Resampling, Samples, score_arm, to_interval
from factory.evaluate.fewshot.settings import PRIMARY, TUNE_FOLDS
from factory.evaluate.fewshot.study import Study
from factory.evaluate.fewshot.tuned import BASELINE, BEST, TUNED_ARMS

Scored = dict[str, dict[str, Samples]]
OWN = "real, {}"
"""What the untuned classifier of the study makes of the shots alone."""


def build_tuned(
    study: Study,
    outcome: Outcome,
    untuned: Scored,
    labels: NDArray[np.int64],
    resampling: Resampling,
) -> dict[str, Any]:
    """Returns `tuned`, or nothing where nothing was tuned.

    `arms` are those of the classifier that each draw chose, `classifiers` those of each one,
    `paired` and `relative_gain` hold every arm against the best baseline, which is the chosen
    classifier of real images alone (`real+classical`), and against the study's untuned `real`.
    """
    found = outcome.tuned
    if not found.chances:
        return {}
    scored = {
        name: {
            arm: score_arm(arms[arm], labels, resampling)[0] for arm in TUNED_ARMS if arm in arms
        }
        for name, arms in found.chances.items()
    }
    chosen = scored.pop(BEST)
    own = OWN.format(_name_own(study))
    bases = {BASELINE: chosen[BASELINE]}
    bases |= {own: untuned["real"]} if "real" in untuned else {}
    pairs = [(arm, base) for base in bases for arm in chosen if arm != base]
    return {
        "tuned": {
            "settings": _describe(study),
            "arms": {arm: _show(each) for arm, each in chosen.items()},
            "paired": _show(
                {f"{arm} - {b}": chosen[arm][PRIMARY] - bases[b][PRIMARY] for arm, b in pairs}
            ),
            "relative_gain": _show(
                {f"{arm} / {b}": chosen[arm][PRIMARY] / bases[b][PRIMARY] - 1 for arm, b in pairs}
            ),
            "classifiers": {
                name: {arm: _show(each) for arm, each in arms.items()}
                for name, arms in scored.items()
            },
            "chosen": found.chosen,
            "left_out": found.left_out,
            "marks": mark_arms([*study.leaks, *study.tuned_circular], TUNED_ARMS),
        }
    }


def _name_own(study: Study) -> str:
    settings = study.settings
    if settings.encoder is not None:
        return f"sgd on {settings.encoder}, untuned"
    return f"{settings.model}, untuned"


def _describe(study: Study) -> dict[str, Any]:
    assert study.bench is not None
    return {
        "classifiers": [each.describe() for each in study.bench.tuners],
        "options": "augmentation, weight of synthetic images, C or k",
        "chosen_by": "log loss of held-out shots, after a temperature is fitted",
        "folds": study.settings.folds or TUNE_FOLDS,
        "held_out": "patients or slides whole where they are known; with a shot all that varies it",
        "baseline": f"{BASELINE}: of real images alone, no augmentation being one of the options",
    }


def _show(samples: Mapping[str, Samples]) -> dict[str, dict[str, float]]:
    return {name: to_interval(each).to_dict() for name, each in samples.items()}
