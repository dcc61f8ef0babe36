"""Calibration: thresholds proposed from real images, what they cost, and that it is all true."""

import math
from importlib import import_module
from typing import get_args

import pytest

from factory.filter_settings import FilterSettings
from factory.filters import FILTERS
from tests.test_filters import ALL_KINDS, build

UNION = get_args(get_args(FilterSettings)[0])
SETTINGS = {get_args(each.model_fields["kind"].annotation)[0]: each for each in UNION}
JUDGES = {kind: getattr(import_module(module), name) for kind, (module, name) in FILTERS.items()}
BOUNDS = [(kind, field) for kind, judge in JUDGES.items() for field in judge.thresholds]


# --- the thresholds of every kind ----------------------------------------------------------------


@pytest.mark.parametrize("kind", FILTERS)
def test_every_kind_says_which_score_each_threshold_bounds(kind):
    judge, fields = JUDGES[kind], SETTINGS[kind].model_fields
    assert set(judge.thresholds) <= set(fields)
    assert set(judge.thresholds.values()) <= set(judge.score_names)
    bounds = {name for name in fields if name.startswith(("min_", "max_"))}
    assert set(judge.thresholds) == (bounds if judge.score_names else set())


@pytest.mark.parametrize(("kind", "field"), BOUNDS)
def test_a_score_at_the_threshold_passes_and_one_step_beyond_does_not(kind, field):
    described = next(each for each in ALL_KINDS if each["kind"] == kind)
    judge = build({**described, field: 0.5})[0]
    scores = dict.fromkeys(judge.score_names, 0.0)
    for name, score in judge.thresholds.items():
        scores[score] = 1e6 if name.startswith("min_") else -1e6
    bounded = judge.thresholds[field]
    beyond = -1e-4 if field.startswith("min_") else 1e-4
    assert judge.decide({**scores, bounded: 0.5}).accepted
    assert not judge.decide({**scores, bounded: 0.5 + beyond}).accepted
    assert judge.decide({**scores, bounded: math.nan}).accepted
