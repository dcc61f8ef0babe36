"""PSNR, SSIM and grouped correlations against outside implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr

from factory.core.metrics import measure_psnr, measure_ssim
from factory.core.stats.correlation import (
    bootstrap_pearson,
    correlate_weighted,
    draw_weights,
    permute_pearson,
)


def draw_planes(seed, span=1.0):
    draw = np.random.default_rng(seed)
    one = gaussian_filter(draw.random((40, 52)), 2) * span
    return one, one + draw.normal(0, 0.02 * span, one.shape)


@pytest.mark.parametrize("span", [1.0, 255.0, 0.01])
def test_ssim_and_psnr_are_those_of_torchmetrics(span):
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    one, other = draw_planes(1, span)
    given = [torch.from_numpy(each)[None, None].double() for each in (one, other)]
    psnr = peak_signal_noise_ratio(*given, data_range=span)
    assert measure_psnr(one, other, span) == pytest.approx(float(psnr), abs=1e-4)
    settings = {"sigma": 1.5, "data_range": span, "return_full_image": True}
    _, windows = structural_similarity_index_measure(*given, **settings)
    inner = windows[0, 0, 5:-5, 5:-5].mean()  # whole windows, as Wang et al. have it
    assert measure_ssim(one, other, span) == pytest.approx(float(inner), abs=1e-6)


def test_equal_planes_are_one_and_infinite():
    one, _ = draw_planes(2)
    assert measure_ssim(one, one, 1.0) == pytest.approx(1.0)
    assert math.isinf(measure_psnr(one, one, 1.0))


def test_weighted_correlations_are_those_of_repeated_rows():
    draw = np.random.default_rng(3)
    x, noise = draw.normal(size=(2, 30))
    y = 0.5 * x + noise
    weights = np.stack([np.ones(30), draw.integers(0, 4, 30)]).astype(float)
    found = correlate_weighted(x, y, weights)
    assert found[0] == pytest.approx(pearsonr(x, y).statistic)
    times = weights[1].astype(int)
    again = pearsonr(np.repeat(x, times), np.repeat(y, times)).statistic
    assert found[1] == pytest.approx(again)
    assert np.isnan(correlate_weighted(np.ones(30), y, weights)).all()


def test_whole_groups_are_drawn():
    groups = np.repeat(np.arange(5), 4)
    weights = draw_weights(20, groups, 0, 50)
    assert weights.shape == (50, 20)
    assert (weights.sum(1) == 20).all()
    assert all((block == block[:, :1]).all() for block in np.split(weights, 5, axis=1))


def test_intervals_over_patients_are_wider_than_over_their_patches():
    draw = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 20)
    level = draw.normal(size=6)[groups]
    x, y = level + draw.normal(0, 0.3, 120), level + draw.normal(0, 0.3, 120)
    by_group, by_patch = (bootstrap_pearson(x, y, each, 0) for each in (groups, None))
    assert by_group.mean == by_patch.mean
    assert by_group.high - by_group.low > 1.5 * (by_patch.high - by_patch.low)
    assert bootstrap_pearson(np.ones(9), x[:9], None, 0) is None


def test_what_tells_patients_apart_is_no_evidence():
    """Between patients x and y go together, within them they do not."""
    draw = np.random.default_rng(6)
    groups = np.repeat(np.arange(6), 20)
    x, y = (3.0 * groups + draw.normal(size=120) for _ in range(2))
    assert permute_pearson(x, y, None, 0, 500) == pytest.approx(1 / 501)
    assert permute_pearson(x, y, groups, 0, 500) > 0.05
    assert permute_pearson(x, x + draw.normal(size=120), groups, 0, 500) == pytest.approx(1 / 501)
    alone = np.arange(120)
    assert permute_pearson(x, y, alone, 0, 500) == permute_pearson(x, y, None, 0, 500)
