"""Kappa, areas and intervals of reader studies, against outside libraries and published tables."""

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from factory.core.stats import agreement, readers

TABLE = np.array([[25, 10, 2], [4, 31, 7], [1, 6, 14]])
FLEISS = np.array([
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
])  # fmt: skip
"""Ten cases, fourteen raters, five categories: the worked example that is known by kappa .210."""


def test_cohens_kappa_is_that_of_scikit_learn_and_its_interval_that_of_statsmodels():
    first = np.repeat(np.arange(9) // 3, TABLE.ravel())
    second = np.repeat(np.arange(9) % 3, TABLE.ravel())
    found = agreement.compute_cohen_kappa(TABLE)
    assert found.mean == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    # statsmodels 0.15.0, inter_rater.cohens_kappa(TABLE): kappa, kappa_low, kappa_upp
    assert found == pytest.approx(
        (0.533654593502254, 0.3941498206066364, 0.6731593663978716), abs=1e-12
    )


def test_fleiss_kappa_is_that_of_the_published_table_and_of_irrcac():
    found = agreement.compute_fleiss_kappa(FLEISS)
    # statsmodels 0.15.0: fleiss_kappa(FLEISS); irrCAC 0.4.4: interval of CAC(...).fleiss()
    assert found.mean == pytest.approx(0.20993070442195522, abs=1e-12)
    assert found[1:] == pytest.approx((0.00097, 0.41889), abs=5e-6)


def test_of_two_raters_fleiss_agreement_is_perfect_where_cohens_is():
    same = np.diag([7, 5, 3])
    assert (
        agreement.compute_cohen_kappa(same).mean == agreement.compute_cohen_kappa(same).low == 1.0
    )
    counts = agreement.count_answers([{str(i): "ab"[i % 2] for i in range(9)}] * 3)
    assert agreement.compute_fleiss_kappa(counts).mean == pytest.approx(1.0)


def test_where_chance_agrees_always_there_is_no_kappa():
    assert agreement.compute_cohen_kappa(np.array([[9]])) is None
    assert agreement.compute_fleiss_kappa(np.array([[3, 0], [3, 0]])) is None
    assert agreement.compute_fleiss_kappa(np.array([[1, 0], [3, 0]])) is None


def test_answers_are_counted_where_both_gave_one():
    first, second = {"1": "a", "2": "b", "3": "a"}, {"1": "a", "2": "a", "4": "b"}
    assert agreement.cross_answers(first, second).tolist() == [[1, 0], [1, 0]]
    assert agreement.count_answers([first, second]).tolist() == [[2, 0], [1, 1], [1, 0], [0, 1]]


def draw(seed=3, count=60):
    random = np.random.default_rng(seed)
    is_signal = np.arange(count) < 25
    first = random.normal(is_signal * 1.0, 1).round(1)
    second = (first * 0.5 + random.normal(is_signal * 0.6, 1)).round(1)
    return np.stack([first, second]), is_signal


def test_areas_are_those_of_scikit_learn_and_their_difference_that_of_mlstatkit():
    ratings, is_signal = draw()
    areas, covariance = readers.compare_areas(ratings, is_signal)
    assert areas == pytest.approx([roc_auc_score(is_signal, row) for row in ratings], abs=1e-12)
    # MLstatkit 0.1.91, Delong_test of both: var_diff, and |z| of the difference
    spread = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert spread == pytest.approx(0.00545931492597039, abs=1e-12)
    assert abs(areas[0] - areas[1]) / spread**0.5 == pytest.approx(0.13920838097289795, abs=1e-9)


def test_d_prime_of_a_textbook_case():
    """Rates .80 and .30 give .8416 + .5244 = 1.366; the log-linear rule draws them in a little."""
    is_signal = np.arange(2000) < 1000
    says = np.r_[np.arange(1000) < 800, np.arange(1000) < 300]
    found = readers.compute_d_prime(is_signal, says)
    assert found.mean == pytest.approx(1.366, abs=0.005)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0613, rel=0.02)
    perfect = readers.compute_d_prime(is_signal, is_signal)
    assert np.isfinite(perfect).all() and perfect.mean > 5


def test_the_jackknife_of_d_prime_agrees_with_its_formula():
    ratings, is_signal = draw(count=300)
    values, covariance = readers.compare_primes(ratings > 0.5, is_signal)
    for value, spread, row in zip(values, np.diag(covariance), ratings, strict=True):
        one = readers.compute_d_prime(is_signal, row > 0.5)
        assert value == one.mean
        assert spread**0.5 * 2 * 1.96 == pytest.approx(one.high - one.low, rel=0.15)


def test_readers_are_combined_as_obuchowski_and_rockette_do():
    """By hand: MS(R) = .0025, Cov2 = .001, their sum .0055, df = .0055^2 / (.0025^2 / 2) = 9.68."""
    covariance = np.full((3, 3), 0.001) + np.eye(3) * 0.002
    found = readers.combine_readers(np.array([0.75, 0.80, 0.85]), covariance)
    assert found.mean == pytest.approx(0.80)
    assert found.high - found.mean == pytest.approx(t.ppf(0.975, 9.68) * (0.0055 / 3) ** 0.5)
    alone = readers.combine_readers(np.array([0.8]), np.array([[0.0025]]))
    assert alone.high - alone.mean == pytest.approx(1.95996 * 0.05, rel=1e-5)


def test_intervals_hold_what_they_promise():
    """Simulated: readers and cases are drawn, ratings in six steps; 95 % of 300 is 285 +- 8."""
    random, count, raters = np.random.default_rng(1), 60, 4
    is_signal, found = np.arange(count) < count // 2, []
    for _ in range(300):
        skill, case = random.normal(1.0, 0.25, raters), random.normal(0, 0.6, count)
        seen = skill[:, None] * is_signal + case + random.normal(0, 1, (raters, count))
        ratings = np.digitize(seen, [-1, 0, 0.5, 1, 2]).astype(float)
        found.append(readers.combine_readers(*readers.compare_areas(ratings, is_signal)))
    truth = np.mean([each.mean for each in found])
    held = sum(each.low <= truth <= each.high for each in found)
    assert held >= 270


def test_shares_without_spread_have_wilsons_interval():
    found = readers.combine_shares(np.ones((3, 20)))
    assert found.mean == 1.0 and found.low == pytest.approx(0.8389, abs=1e-4)
    found = readers.combine_shares(np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    assert 0.0 <= found.low <= 0.5 <= found.high <= 1.0
