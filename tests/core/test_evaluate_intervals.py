"""Bootstrap intervals: of the size that theory gives, the same in blocks, by weighted units."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from factory.core.errors import EvaluationError
from factory.core.stats import intervals
from factory.core.stats.intervals import bootstrap_mean, compute_wilson


def draw(seed, count, shift=0.0):
    return np.random.default_rng(seed).normal(size=count) + shift


def test_an_interval_has_the_width_of_the_normal_one_and_holds_the_truth():
    found = bootstrap_mean(draw(0, 400, 3.0))
    assert found.low < 3.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.1)
    assert found.mean == pytest.approx(draw(0, 400, 3.0).mean())


def test_blocks_change_nothing(monkeypatch):
    values, weights = draw(1, 37), np.arange(1, 38)
    whole = bootstrap_mean(values, 5, weights)
    monkeypatch.setattr(intervals, "_DRAWN", 37 * 7)
    assert bootstrap_mean(values, 5, weights) == whole
    monkeypatch.setattr(intervals, "_DRAWN", 1)
    assert bootstrap_mean(values, 5, weights) == whole
    assert bootstrap_mean(values, 6, weights) != whole


def test_weights_are_those_of_units_with_many_images():
    found = bootstrap_mean([0.0, 1.0], weights=[3, 1])
    assert found.mean == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, 1.0)


def test_paired_differences_are_narrower_than_the_values():
    base = draw(2, 100) * 5
    found = bootstrap_mean(base + 0.5 + draw(3, 100) * 0.1 - base)
    assert found.low > 0.4
    assert found.high - found.low < 0.1


def test_what_has_no_interval_is_refused():
    for values in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(EvaluationError, match="finite numbers"):
            bootstrap_mean(values)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 7), (40, 41), (12, 12), (95, 100)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_wilson_equals_scipys(hits, count, level):
    expected = binomtest(hits, count).proportion_ci(level, method="wilson")
    found = compute_wilson(hits / count, count, level)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_a_share_of_nothing_says_nothing():
    found = compute_wilson(0.0, 0)
    assert math.isnan(found.mean) and (found.low, found.high) == (0.0, 1.0)
