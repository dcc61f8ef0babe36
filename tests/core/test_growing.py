"""What the newest images of a set change of its distance to real ones, and by which interval."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from factory.core.metrics.growing import GROUPS, GrowingSet

DIM = 6
REAL = np.random.default_rng(0).normal(size=(300, DIM))


def draw(count: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, DIM))


def grow(*blocks: np.ndarray, real: np.ndarray = REAL) -> GrowingSet:
    found = GrowingSet(real)
    for block in blocks:
        found.add(block)
    return found


def standardise(values: np.ndarray) -> np.ndarray:
    return (values - REAL.mean(0)) / REAL.std(0)


def measure(images: np.ndarray, real: np.ndarray) -> float:
    """The biased squared MMD, by all pairs at once."""
    width = np.median(pdist(real))

    def compare(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-cdist(x, y, "sqeuclidean") / (2 * width**2)).mean())

    return compare(images, images) + compare(real, real) - 2 * compare(images, real)


def test_distances_are_the_biased_kernel_distance_of_all_images():
    old, new = draw(150, 0.5, 1), draw(70, 0.5, 2)
    growth = grow(old, new).compare(0.95)
    whole = np.concatenate([old, new])
    for images, found in ((old, growth.before), (whole, growth.after)):
        assert found == pytest.approx(measure(standardise(images), standardise(REAL)), rel=1e-5)
    assert growth.change.mean == pytest.approx(1 - growth.after / growth.before)
    assert growth.change.low < growth.change.mean < growth.change.high


def test_the_interval_leaves_each_part_out_in_turn():
    old, new = draw(200, 0.5, 1), draw(100, 0.2, 2)
    growth = grow(old, new).compare(0.95)
    left = []
    for part in range(GROUPS):
        kept_old = old[np.arange(200) % GROUPS != part]
        kept_new = new[np.arange(200, 300) % GROUPS != part]
        found = grow(kept_old, kept_new).compare(0.95)
        left.append(found.change.mean)
    spread = np.sqrt((GROUPS - 1) / GROUPS * np.square(left - np.mean(left)).sum())
    assert growth.change.high - growth.change.mean == pytest.approx(2.093024 * spread, rel=1e-5)


def test_a_set_in_more_blocks_is_the_same_set():
    blocks = [draw(40, 0.5, seed) for seed in range(5)]
    one = grow(np.concatenate(blocks[:4]), blocks[4]).compare(0.9).round(6)
    assert grow(*blocks).compare(0.9).round(6) == one


def test_what_has_converged_is_equivalent_and_what_drifts_is_not():
    """Blocks of 1,000: a generator that stays as it is, one that leaves, and one that comes."""
    same = [draw(1000, 0.5, seed) for seed in range(4)]
    assert grow(*same).compare(0.95).is_within(0.05)
    away = grow(*same[:3], draw(1000, 1.0, 9)).compare(0.95)
    assert away.change.high < -0.05 and not away.is_within(0.05)
    nearer = grow(*same[:3], draw(1000, 0.0, 9)).compare(0.95)
    assert nearer.change.low > 0.05 and not nearer.is_within(0.05)


def test_few_images_are_no_proof_that_nothing_changes():
    """No significant difference is not equivalence: an interval across 0 may be wide."""
    growth = grow(draw(25, 0.5, 1), draw(25, 0.5, 2)).compare(0.95)
    assert growth.change.low < 0 < growth.change.high
    assert not growth.is_within(0.02)


def test_a_block_that_lacks_a_part_is_not_tested():
    assert grow(draw(100, 0.5, 1)).compare(0.95) is None
    assert grow(draw(100, 0.5, 1), draw(GROUPS - 1, 0.5, 2)).compare(0.95) is None
    assert grow(draw(100, 0.5, 1), np.zeros(0)).compare(0.95) is None


def test_an_image_far_away_decides_nothing():
    """By a cubic kernel one such image of a thousand outweighed all others."""
    old, new = draw(1000, 0.5, 1), draw(1000, 0.5, 2)
    whole = grow(old, new).compare(0.95).change
    new[0] += 100.0
    odd = grow(old, new).compare(0.95).change
    assert abs(odd.mean - whole.mean) < 0.01
    assert odd.high - odd.low < 1.1 * (whole.high - whole.low)


def test_small_sets_count_as_farther_away():
    """Of real images themselves: the more of them, the nearer, so that more go on counting."""
    growth = grow(draw(200, 0.0, 1), draw(200, 0.0, 2)).compare(0.95)
    assert growth.after < growth.before and growth.change.mean > 0.15


def test_intervals_cover():
    """Of 200 sets the change that 3,000 sets have on average lies in nine of ten 90 % intervals."""

    def measure(seed: int):
        generator = np.random.default_rng([5, seed])
        blocks = [generator.normal(0.4, 1.0, (60, 2)) for _ in range(3)]
        return grow(*blocks, real=REAL[:100, :2]).compare(0.9).change

    found = [measure(seed) for seed in range(400)]
    truth = np.mean([each.mean for each in found])
    covered = np.mean([each.low <= truth <= each.high for each in found[:200]])
    assert 0.83 <= covered <= 0.97
