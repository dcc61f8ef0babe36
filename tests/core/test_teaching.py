"""What newest images change of what a classifier tells of real ones, and by which interval."""

import numpy as np
import pytest

from factory.core.metrics.growing import GROUPS
from factory.core.metrics.teaching import (
    TaughtSet,
    bound_change,
    count_needed,
    find_least_width,
)

DIM = 5
CENTRES = np.array([[0.0] * DIM, [1.2, *[0.0] * (DIM - 1)], [0.0, 1.2, *[0.0] * (DIM - 2)]])


def draw(count: int, seed: int, classes: int = 3, shift: float = 0.0):
    """Features and classes: `count` of each."""
    labels = np.repeat(np.arange(classes), count)
    noise = np.random.default_rng(seed).normal(size=(len(labels), DIM))
    return CENTRES[labels] + noise + shift, labels


REAL, LABELS = draw(400, 0)
UNITS = np.arange(len(LABELS)) // 2


def grow(*blocks, real=REAL, labels=LABELS, units=UNITS) -> TaughtSet:
    found = TaughtSet(real, labels, units)
    for block in blocks:
        found.add(*block)
    return found


def test_the_classifier_is_the_linear_discriminant_of_the_books():
    """Against scikit-learn's, of equal priors and the same shrinkage of standardised features."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    old, new = draw(60, 1), draw(40, 2)
    keep = new[1] != 2  # classes of different size count the same
    new = new[0][keep], new[1][keep]
    growth = grow(old, new).compare(0.95, [0, 1])
    reached = []
    whole = tuple(np.concatenate(each) for each in zip(old, new, strict=True))
    for features, labels in (old, whole):
        means = np.stack([features[labels == each].mean(0) for each in range(3)])
        spread = (features - means[labels]).std(0)
        judge = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
        pooled = np.cov((features - means[labels]) / spread, rowvar=False, bias=True)
        shrunk = 0.9 * pooled + 0.1 * np.eye(DIM)
        judge.set_params(covariance_estimator=Fixed(shrunk)).fit(features / spread, labels)
        right = judge.predict(REAL / spread) == LABELS
        reached.append(np.mean([right[each == LABELS].mean() for each in range(3)]))
    assert [growth.before, growth.after] == pytest.approx(reached, abs=1e-12)


class Fixed:
    """A covariance that is given; of each class the same, so that their mean is it."""

    def __init__(self, covariance):
        self.covariance_ = covariance

    def get_params(self, deep=True):
        return {"covariance": self.covariance_}

    def fit(self, values):
        return self


def test_a_set_in_more_blocks_is_the_same_set():
    blocks = [draw(30, seed) for seed in range(4)]
    joined = tuple(np.concatenate(each) for each in zip(*blocks[:3], strict=True))
    one = grow(joined, blocks[3]).compare(0.9, [0]).round(6)
    assert grow(*blocks).compare(0.9, [0]).round(6) == one


def test_ends_once_it_has_converged_and_goes_on_while_it_gains():
    """From 20 images a class, of much noise, accuracy rises at first; then no more."""
    generator = np.random.default_rng(3)
    wide = np.zeros((2, 150))
    wide[1, :30] = 0.5
    labels = np.repeat([0, 1], 2000)

    def sample(seed: int, count: int):
        each = np.repeat([0, 1], count)
        return wide[each] + np.random.default_rng(seed).normal(size=(2 * count, 150)), each

    real = wide[labels] + generator.normal(size=(len(labels), 150))
    units = np.arange(len(labels)) // 4
    found, told = TaughtSet(real, labels, units), []
    for seed, count in enumerate([20, 20, 40, 2000, 200, 200]):
        found.add(*sample(seed, count))
        growth = found.compare(0.95, [0, 1])
        told.append(None if growth is None else growth.is_within(0.02))
    assert told[:4] == [None, False, False, False] and told[4:] == [True, True]
    assert growth.after > 0.85


def test_a_block_that_harms_is_no_end():
    """Images that teach the opposite: the interval lies below 0."""
    features, labels = draw(400, 5)
    growth = grow(draw(100, 4), (features, (labels + 1) % 3)).compare(0.95, [0, 1, 2])
    assert growth.change.high < 0 and not growth.is_within(0.02)


def test_few_patients_of_whom_nothing_changed_are_no_proof():
    nothing = np.zeros((10, 2))
    found = bound_change(nothing, 0.95)
    assert found.mean == 0 and found.high == pytest.approx(-found.low)
    assert found.high == pytest.approx(find_least_width([10, 10], 0.95)) and found.high > 0.1
    needed = count_needed(2, 0.02, 0.95)
    assert find_least_width([needed] * 2, 0.95) <= 0.02 < find_least_width([needed - 1] * 2, 0.95)
    assert needed == 69


def test_least_width_is_the_narrowest_interval():
    generator, width = np.random.default_rng(0), find_least_width([12, 12], 0.9)
    for _ in range(200):
        changes = generator.integers(-1, 2, (12, 2)) * (generator.random((12, 2)) < 0.2)
        found = bound_change(changes.astype(float), 0.9)
        assert (found.high - found.low) / 2 >= width - 1e-12


@pytest.mark.parametrize("shares_patients", [False, True])
def test_intervals_cover(shares_patients):
    """Changes of one image of each patient: 90 % intervals hold what they are drawn about."""
    generator, held = np.random.default_rng(1), []
    for _ in range(1500):
        drawn = generator.random((30, 2))
        changes = (drawn < 0.2).astype(float) - (drawn > 0.9)
        if not shares_patients:
            apart = np.full((60, 2), np.nan)
            apart[:30, 0], apart[30:, 1] = changes.T
            changes = apart
        found = bound_change(changes, 0.9)
        held.append(found.low <= 0.1 <= found.high)
    assert 0.88 <= np.mean(held) <= 0.97


def test_images_of_a_patient_are_no_patients():
    """The interval is as wide by 20 patients of 20 images as by 20 images."""
    right = np.random.default_rng(2).integers(-1, 2, 20).astype(float)
    one = bound_change(np.stack([right, right], axis=1), 0.95)
    labels = np.repeat([0, 1], 400)
    found = TaughtSet(np.zeros((800, 2)), labels, np.tile(np.repeat(np.arange(20), 20), 2))
    shares = found._average(np.tile(np.repeat(right, 20), 2))
    assert bound_change(shares, 0.95) == one


def test_a_block_that_lacks_a_class_that_goes_on_is_not_tested():
    old, new = draw(GROUPS, 1), draw(GROUPS, 2)
    less = new[0][1:], new[1][1:]  # class 0 lacks one
    assert grow(old).compare(0.95, [0]) is None
    assert grow(old, less).compare(0.95, [0, 1]) is None
    assert grow(old, less).compare(0.95, [1]) is not None
    assert grow(less, new).compare(0.95, [1]) is None


def test_features_that_never_change_are_borne():
    """A constant, and a copy of another: their correlations cannot be inverted as they are."""

    def widen(features):
        return np.concatenate([features, features[:, :1], np.ones((len(features), 1))], axis=1)

    old, new = ((widen(features), labels) for features, labels in (draw(30, 1), draw(30, 2)))
    growth = grow(old, new, real=widen(REAL)).compare(0.95, [0, 1, 2])
    assert 0.4 < growth.after <= 1 and np.isfinite(growth.change).all()
