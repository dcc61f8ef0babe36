"""Distances against closed forms and plain double loops; the kernel distance is unbiased."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from factory.core.metrics import compute_fd, compute_kid


def draw(seed, count, dim):
    return np.random.default_rng(seed).normal(size=(count, dim))


def make_exact(mean, spread, count=200, seed=0):
    """Points whose sample mean and (unbiased) sample covariance are exactly those given."""
    raw = draw(seed, count, len(mean))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(spread).T + mean


def draw_spread(seed, dim):
    mixed = draw(seed, dim, dim)
    return mixed @ mixed.T + 0.1 * np.eye(dim)


def test_fd_of_gaussians_with_commuting_covariances_has_a_plain_closed_form():
    """|mu - nu|^2 + sum of (s_i - t_i)^2, for standard deviations s and t on the axes."""
    s, t = np.array([1.0, 2.0, 0.5]), np.array([1.5, 0.5, 0.5])
    first = make_exact(np.array([0.0, 1.0, -2.0]), np.diag(s**2))
    second = make_exact(np.array([1.0, 1.0, 0.0]), np.diag(t**2), count=77, seed=1)
    assert compute_fd(first, second) == pytest.approx(5.0 + ((s - t) ** 2).sum())


def test_fd_of_gaussians_agrees_with_the_matrix_square_root():
    """Equation 6 of Heusel et al. 2017 as written, where the covariances do not commute."""
    dim = 12
    mean, other = draw(3, 1, dim)[0], draw(4, 1, dim)[0]
    one, two = draw_spread(5, dim), draw_spread(6, dim)
    root = sqrtm(one @ two).real
    expected = ((mean - other) ** 2).sum() + np.trace(one + two - 2 * root)
    found = compute_fd(make_exact(mean, one), make_exact(other, two, seed=1))
    assert found == pytest.approx(expected)


def test_fd_is_zero_for_the_same_set_symmetric_and_never_negative():
    first, second = draw(0, 60, 8), draw(1, 90, 8) + 0.3
    assert compute_fd(first, first) == pytest.approx(0.0, abs=1e-9)
    assert compute_fd(first, second) == pytest.approx(compute_fd(second, first))
    few = draw(2, 5, 20)  # fewer images than dimensions: roots of rounding errors
    assert compute_fd(few, few[::-1]) >= 0.0


def test_fd_of_single_precision_features_is_computed_in_double():
    first, second = draw(0, 60, 8).astype(np.float32), draw(1, 60, 8).astype(np.float32)
    doubles = compute_fd(first.astype(np.float64), second.astype(np.float64))
    assert compute_fd(first, second) == doubles


def test_kid_is_the_double_loop_over_pairs():
    first, second = draw(0, 7, 5), draw(1, 9, 5) + 0.4

    def kernel(x, y):
        return (float(np.dot(x, y)) / 5 + 1.0) ** 3

    def inner(points):
        count = len(points)
        pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        return sum(kernel(points[i], points[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(x, y) for x in first for y in second) / (7 * 9)
    expected = inner(first) + inner(second) - 2 * across
    assert compute_kid(first, second) == pytest.approx(expected)
    assert compute_kid(second, first) == pytest.approx(expected)


def test_kid_of_equal_distributions_is_zero_on_average():
    """Within three standard errors; the diagonal of the kernels would shift it by far more."""
    dim, count, rounds = 6, 20, 400
    pairs = [(draw(2 * seed, count, dim), draw(2 * seed + 1, count, dim)) for seed in range(rounds)]
    found = np.array([compute_kid(first, second) for first, second in pairs])
    error = found.std() / np.sqrt(rounds)
    assert abs(found.mean()) < 3 * error
    assert (found < 0).mean() > 0.3
    biased = [((x @ x.T / dim + 1) ** 3).trace() / count**2 for x, _ in pairs]
    assert np.mean(biased) > 20 * error


def test_both_grow_with_the_distance_of_the_sets():
    real = draw(0, 300, 4)
    shifted = [draw(1, 300, 4) + shift for shift in (0.0, 0.5, 1.0)]
    for compute in (compute_fd, compute_kid):
        near, middle, far = (compute(real, other) for other in shifted)
        assert near < middle < far
