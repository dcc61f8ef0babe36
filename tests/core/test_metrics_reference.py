"""Metrics on fixed features against outside packages, and against the papers written as loops."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.stats import rankdata
from torch import nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from factory.core.files import rows
from factory.core.files.rows import RowFile
from factory.core.metrics import (
    compare_manifolds,
    compute_authenticity,
    compute_cmmd,
    compute_copy_test,
    compute_fd,
    compute_kid,
    copying,
    find_nearest,
    measure_cmmd,
    measure_kid,
)

AGREES = 1e-3
"""Relative, as asked of every metric."""


def draw(seed, count, dim, shift=0.0, spread=1.0):
    """Correlated features, as networks give them."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / np.sqrt(dim)
    return (random.normal(size=(count, dim)) @ mixing * spread + shift).astype(np.float32)


REAL = draw(0, 700, 24)
NEAR = draw(1, 600, 24, 0.1, 0.9)
FAR = draw(2, 500, 24, 0.5, 0.6)
PAIRS = [pytest.param(REAL, NEAR, id="near"), pytest.param(REAL, FAR, id="far")]


class Identity(nn.Module):
    """Features that were computed before, as torchmetrics asks for them."""

    num_features = REAL.shape[1]

    def forward(self, features):
        return features


def run_torchmetrics(metric, real, synthetic):
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(synthetic), real=False)
    return metric.compute()


@pytest.mark.parametrize(("real", "synthetic"), PAIRS)
def test_fd_agrees_with_torchmetrics_and_torch_fidelity(real, synthetic):
    found = compute_fd(real, synthetic)
    metric = FrechetInceptionDistance(feature=Identity(), normalize=True).set_dtype(torch.float64)
    assert found == pytest.approx(float(run_torchmetrics(metric, real, synthetic)), rel=AGREES)
    spread = [
        fid_features_to_statistics(torch.from_numpy(each).double()) for each in (real, synthetic)
    ]
    other = fid_statistics_to_metric(*spread, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(other, rel=AGREES)


@pytest.mark.parametrize(("real", "synthetic"), PAIRS)
def test_kid_agrees_with_torchmetrics_and_torch_fidelity(real, synthetic):
    """One subset of all images: both draw theirs at random. Theirs need equal numbers."""
    count = len(synthetic)
    real = real[:count]
    found = compute_kid(real, synthetic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=count)
    mean, _ = run_torchmetrics(metric, real, synthetic)
    assert found == pytest.approx(float(mean), rel=AGREES)
    options = {"kid_subsets": 1, "kid_subset_size": count, "kid_kernel": "poly", "verbose": False}
    features = (torch.from_numpy(each) for each in (real, synthetic))
    other = kid_features_to_metric(*features, rng_seed=0, **options)
    assert found == pytest.approx(other["kernel_inception_distance_mean"], rel=AGREES)


@pytest.mark.parametrize(("real", "synthetic"), PAIRS)
def test_precision_and_recall_agree_with_torch_fidelity(real, synthetic):
    found = compare_manifolds(real, synthetic, 5)
    other = prc_features_to_metric(
        torch.from_numpy(synthetic).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=5,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    assert found.precision.mean() == pytest.approx(other["precision"], rel=AGREES)
    assert found.recall.mean() == pytest.approx(other["recall"], rel=AGREES)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize(("real", "synthetic"), PAIRS)
def test_precision_recall_density_and_coverage_agree_with_prdc(real, synthetic, neighbours):
    found = compare_manifolds(real, synthetic, neighbours)
    expected = compute_prdc(real.astype(float), synthetic.astype(float), neighbours)
    for name, value in expected.items():
        assert getattr(found, name).mean() == pytest.approx(value, rel=AGREES), name
    assert 0 < expected["precision"] <= 1  # what is compared is not all zero


# --- the papers as loops -------------------------------------------------------------------------


def compute_cmmd_by_loops(first, second):
    """Equation 5 of Gretton et al. 2012 with exp(-|x - y|^2 / 2 sigma^2) of unit vectors."""
    x = [row / np.sqrt((row.astype(float) ** 2).sum()) for row in first]
    y = [row / np.sqrt((row.astype(float) ** 2).sum()) for row in second]

    def mean(one, other):
        values = [np.exp(-((a - b) ** 2).sum() / (2 * 10.0**2)) for a in one for b in other]
        return sum(values) / len(values)

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize(("real", "synthetic"), PAIRS)
def test_cmmd_is_that_of_the_paper(real, synthetic):
    real, synthetic = real[:60], synthetic[:45]
    assert compute_cmmd(real, synthetic) == pytest.approx(
        compute_cmmd_by_loops(real, synthetic), rel=1e-6
    )


def test_subsets_of_kernel_distances_are_the_distances_of_the_subsets():
    random = np.random.default_rng(0)
    first = np.stack([random.permutation(700) < 300 for _ in range(3)])
    second = np.stack([random.permutation(600) < 250 for _ in range(3)])
    for measure in (measure_kid, measure_cmmd):
        found = measure(REAL, NEAR, (first, second))
        assert found.draws.shape == (3,)
        for number in range(3):
            alone = measure(REAL[first[number]], NEAR[second[number]])
            assert found.draws[number] == pytest.approx(alone.unbiased, rel=1e-9, abs=1e-12)
            assert found.biased_draws[number] == pytest.approx(alone.biased, rel=1e-9)
        assert found.unbiased == pytest.approx(measure(REAL, NEAR).unbiased)
        assert found.biased > found.unbiased


def measure_by_loop(one, other):
    return float(np.sqrt(((one.astype(float) - other.astype(float)) ** 2).sum()))


def test_authenticity_is_that_of_the_paper():
    train = REAL[:80]
    synthetic = np.concatenate([NEAR[:40], train[:10] + 1e-3])
    expected = []
    for image in synthetic:
        apart = [measure_by_loop(image, each) for each in train]
        nearest = int(np.argmin(apart))
        others = [measure_by_loop(train[nearest], train[i]) for i in range(80) if i != nearest]
        expected.append(apart[nearest] > min(others))
    assert compute_authenticity(train, synthetic).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert not any(expected[40:])


def test_nearest_is_that_of_a_loop_and_copies_are_at_zero():
    positions, distances = find_nearest(NEAR[:30], REAL[:50])
    for row in range(30):
        apart = [measure_by_loop(NEAR[row], each) for each in REAL[:50]]
        assert positions[row] == int(np.argmin(apart))
        assert distances[row] == pytest.approx(min(apart))
    large = REAL + 1000.0
    positions, distances = find_nearest(large[5:8], large)
    assert positions.tolist() == [5, 6, 7]
    assert distances.tolist() == [0.0, 0.0, 0.0]
    positions, distances = find_nearest(REAL[:9], REAL[:9], is_same=True)
    assert (positions != np.arange(9)).all()


class Wide(RowFile):
    dtype, width = np.float32, 24


@pytest.mark.usefixtures("usual_gc")
def test_rows_of_files_give_what_arrays_give_and_memory_holds_blocks_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "_BLOCK", 32)
    monkeypatch.setattr(copying, "_OTHERS", 64)
    monkeypatch.setattr(rows, "_BLOCK", 64)
    generator = np.random.default_rng(0)
    files, arrays = [], []
    for number, count in enumerate((3000, 500, 700)):
        values = generator.normal(size=(count, 24)).astype(np.float32)
        values[1:3] = values[0]  # twins: the first of them is the nearest
        (file := Wide(tmp_path / str(number))).add(values)
        files.append(file)
        arrays.append(values)
    found = find_nearest(files[1], files[0])
    apart = [np.linalg.norm(arrays[0].astype(np.float64) - row, axis=1) for row in arrays[1]]
    assert found[0].tolist() == [int(each.argmin()) for each in apart]
    np.testing.assert_allclose(found[1], [each.min() for each in apart])
    for here, there in zip(found, find_nearest(arrays[1], arrays[0]), strict=True):
        assert (here == there).all()
    own = find_nearest(files[0], files[0], is_same=True)
    assert own[0][:3].tolist() == [1, 0, 0]
    tracemalloc.start()
    find_nearest(files[0], files[0], is_same=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < arrays[0].astype(np.float64).nbytes / 2


def test_copy_test_of_many_training_images_is_that_of_all_at_once(monkeypatch):
    generator = np.random.default_rng(1)
    mixed = generator.normal(size=(40, 40))
    train, held, made = (generator.normal(size=(count, 40)) @ mixed for count in (300, 90, 80))
    whole = compute_copy_test(train, held, made, components=8)
    monkeypatch.setattr(copying, "WHOLE", 100)
    monkeypatch.setattr(copying, "_OTHERS", 64)
    parts = compute_copy_test(train, held, made, components=8)
    assert parts.c_t == pytest.approx(whole.c_t)
    assert parts.z == pytest.approx(whole.z)


def test_copy_test_is_that_of_the_paper():
    """Meehan et al. 2020, with the same cells: three clear clusters, which any k-means finds."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(3, 6)) * 40

    def sample(count, spread):
        cells = random.integers(0, 3, count)
        return centres[cells] + random.normal(size=(count, 6)) * spread, cells

    (t, t_cells), (p, p_cells), (q, q_cells) = sample(200, 1.0), sample(150, 1.0), sample(160, 0.8)
    total, whole = 0.0, 0
    for cell in range(3):
        part = t[t_cells == cell]
        near = [min(measure_by_loop(x, y) for y in part) for x in q[q_cells == cell]]
        usual = [min(measure_by_loop(x, y) for y in part) for x in p[p_cells == cell]]
        m, n = len(near), len(usual)
        assert m > 20
        larger = sum((a > b) + 0.5 * (a == b) for a in near for b in usual)
        assert larger == rankdata([*near, *usual])[:m].sum() - m * (m + 1) / 2
        z = (larger - (m * n / 2 - 0.5)) / np.sqrt(m * n * (m + n + 1) / 12)
        total, whole = total + n * z, whole + n
    found = compute_copy_test(t, p, q)
    assert found.c_t == pytest.approx(total / whole, rel=1e-6)
    assert found.c_t < 0  # less spread than the training set: nearer to it
    assert [cell["held_out"] for cell in found.cells] != []
    assert sum(cell["synthetic"] for cell in found.cells) == 160


# --- planted -------------------------------------------------------------------------------------


def test_a_set_against_itself_is_at_no_distance_and_fully_covered():
    assert compute_fd(REAL, REAL) == pytest.approx(0.0, abs=1e-6)
    assert compute_cmmd(REAL, REAL) == pytest.approx(0.0, abs=1e-9)
    assert compute_kid(REAL, REAL) <= 0.0
    found = compare_manifolds(REAL, REAL)
    assert found.precision.mean() == found.recall.mean() == found.coverage.mean() == 1.0


def test_a_set_far_away_has_neither_precision_nor_recall():
    found = compare_manifolds(REAL, REAL + 100.0)
    assert found.precision.sum() == found.recall.sum() == found.coverage.sum() == 0.0
    assert found.density.sum() == 0.0


def test_copies_of_training_images_are_not_authentic_and_fail_the_copy_test():
    random = np.random.default_rng(0)
    copies = REAL[:300] + random.normal(size=(300, 24)).astype(np.float32) * 1e-3
    held_out = draw(5, 300, 24)
    assert compute_authenticity(REAL, copies).mean() == 0.0
    assert compute_copy_test(REAL, held_out, copies).c_t < -5
    honest = draw(6, 300, 24)
    assert compute_authenticity(REAL, honest).mean() > 0.4
    assert abs(compute_copy_test(REAL, held_out, honest).c_t) < 3
    assert compute_copy_test(REAL, held_out, honest + 5.0).c_t > 5


def test_cells_with_few_synthetic_images_do_not_count():
    found = compute_copy_test(REAL, draw(5, 300, 24), draw(6, 12, 24))
    assert found.c_t is None
    assert all(cell["z"] is None for cell in found.cells)
    assert abs(found.z) < 4


def test_too_few_images_for_neighbours_are_refused():
    with pytest.raises(ValueError, match="5 neighbours need more images"):
        compare_manifolds(REAL, NEAR[:5], 5)
