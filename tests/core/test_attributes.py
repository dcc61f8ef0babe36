"""Measured attributes: known answers on drawn nuclei, invariance, and what real images show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import spearmanr

from factory.core.attributes import MEASURED
from factory.core.errors import InputError
from factory.core.stains import STAIN_VECTORS, measure_attributes
from factory.data.images import fit_image, list_images
from tests import ASSETS

RATIO = 1.5
"""Distance of drawn nuclei in diameters."""


def stain(haematoxylin, eosin):
    """(H, W) amounts of both stains as (H, W, 3) uint8 RGB, by the law of Lambert and Beer."""
    vectors = STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True)
    density = haematoxylin[..., None] * vectors[0] + eosin[..., None] * vectors[1]
    return np.clip(np.round(256 * 10**-density - 1), 0, 255).astype(np.uint8)


def draw(diameter=8.0, ratio=RATIO, haematoxylin=0.6, eosin=0.2, side=96):
    """A tissue of discs on a grid, edges smoothed as optics do."""
    down, across = np.mgrid[:side, :side] + 0.5
    period = diameter * ratio
    from_centre = np.hypot(down % period - period / 2, across % period - period / 2)
    amount = haematoxylin * ndimage.gaussian_filter((from_centre < diameter / 2) * 1.0, 0.7)
    return stain(amount, np.full((side, side), eosin))


def measure(*images):
    return measure_attributes(np.stack(images))


def rise(numbers):
    return bool(np.all(np.diff(numbers) > 0))


def test_all_names_of_the_vocabulary_are_measured():
    found = measure(draw(), draw())
    assert tuple(found) == MEASURED
    assert all(each.dtype == np.float32 and each.shape == (2,) for each in found.values())


@pytest.mark.parametrize("ratio", [1.2, 1.5, 2.0, 3.0])
def test_density_is_the_share_covered(ratio):
    share = np.pi / 4 / ratio**2
    assert measure(draw(10, ratio))["nuclear_density"][0] == pytest.approx(share, rel=0.25)


@pytest.mark.parametrize("diameter", [4, 6, 8, 10, 12])
def test_size_is_the_diameter(diameter):
    assert measure(draw(diameter))["nuclear_size"][0] == pytest.approx(diameter, rel=0.15)


def test_size_rises_with_the_diameter_also_where_nuclei_touch():
    for ratio in (1.0, 1.2, 2.0):
        assert rise(measure(*(draw(d, ratio) for d in (6, 8, 10, 12, 16)))["nuclear_size"])


def test_haematoxylin_is_the_stain_of_nuclei_whatever_their_number():
    strengths = (0.3, 0.5, 0.7, 0.9)
    found = measure(*(draw(12, 2.0, haematoxylin=each) for each in strengths))["haematoxylin"]
    assert rise(found)
    # The border of a nucleus is paler than its middle, so the mean lies below what was drawn.
    assert np.all((found / strengths > 0.75) & (found / strengths < 1.0))
    counted = measure(*(draw(10, ratio) for ratio in (1.2, 1.6, 2.4)))
    assert np.ptp(counted["haematoxylin"]) < 0.05
    assert rise(-counted["nuclear_density"])


def test_stain_strength_hardly_changes_density_and_size():
    found = measure(*(draw(10, haematoxylin=each) for each in (0.35, 0.6, 0.9)))
    assert np.ptp(found["nuclear_density"]) < 0.05
    assert np.ptp(found["nuclear_size"]) < 0.5


def test_eosin_is_the_stain_between_nuclei():
    strengths = (0.15, 0.25, 0.4, 0.6)
    found = measure(*(draw(8, 2.0, eosin=each) for each in strengths))
    np.testing.assert_allclose(found["eosin"], strengths, atol=0.03)
    assert np.ptp(found["haematoxylin"]) < 0.05


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_tissue_and_open_space_are_shares(share):
    image = draw()
    image[:, : round(96 * (1 - share))] = 250
    found = measure(image)
    assert found["tissue"][0] == pytest.approx(share, abs=0.03)
    assert found["fat"][0] == pytest.approx(1 - share, abs=0.04)


def test_narrow_bright_gaps_are_no_open_space():
    image = draw(eosin=0.4)
    image[:, ::16] = image[:, 1::16] = image[:, 2::16] = image[:, 3::16] = 255
    found = measure(image)
    assert found["tissue"][0] < 0.9
    assert found["fat"][0] == 0.0


def test_a_grey_background_is_no_tissue():
    image = draw()
    image[:, :48] = (205, 208, 204)
    assert measure(image)["tissue"][0] == pytest.approx(0.5, abs=0.03)


def test_an_empty_image_has_no_nuclei_to_speak_of():
    found = measure(np.full((96, 96, 3), 245, np.uint8))
    assert found["nuclear_density"][0] == found["tissue"][0] == 0.0
    assert found["fat"][0] == 1.0
    assert all(np.isnan(found[name][0]) for name in ("nuclear_size", "haematoxylin", "eosin"))


def test_eosin_alone_is_no_nucleus():
    found = measure(stain(np.zeros((96, 96)), np.full((96, 96), 0.4)))
    assert found["nuclear_density"][0] == 0.0
    assert found["tissue"][0] == 1.0


@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_are_measured_without_warnings(value, recwarn):
    found = measure(np.full((40, 64, 3), value, np.uint8))
    assert 0.0 <= found["nuclear_density"][0] <= 1.0
    assert not recwarn.list


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 16), (33, 48), (96, 96)]))
def test_any_pixels_are_measured_and_turning_changes_nothing(seed, shape):
    noise = np.random.default_rng(seed)
    image = noise.integers(0, 256, (*shape, 3), dtype=np.uint8)
    smooth = ndimage.gaussian_filter(image, (2, 2, 0))
    for pixels in (image, smooth):
        turned = [measure(np.rot90(pixels, k)) for k in range(4)]
        turned += [measure(pixels[::-1]), measure(pixels[:, ::-1])]
        for name in MEASURED:
            values = np.array([each[name][0] for each in turned])
            np.testing.assert_allclose(values, values[0], rtol=1e-3, atol=1e-4)
            assert not np.isinf(values[0])


def test_who_shares_the_batch_does_not_matter():
    noise = np.random.default_rng(0)
    images = np.stack([draw(noise.uniform(5, 14), noise.uniform(1, 3)) for _ in range(40)])
    together = measure_attributes(images)
    for index in (0, 17, 39):
        alone = measure(images[index])
        for name in MEASURED:
            np.testing.assert_array_equal(alone[name][0], together[name][index])


def test_a_little_change_of_the_image_changes_measures_a_little():
    image = draw(8, 1.6)
    steps = np.stack([np.clip(image.astype(int) + shift, 0, 255) for shift in range(-4, 5)])
    for name, values in measure_attributes(steps.astype(np.uint8)).items():
        scale = 10.0 if name == "nuclear_size" else 1.0
        assert np.abs(np.diff(values)).max() < 0.03 * scale, name


def test_no_images_give_no_measures():
    found = measure_attributes(np.zeros((0, 32, 32, 3), np.uint8))
    assert all(each.shape == (0,) for each in found.values())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((96, 96, 3), np.uint8),
        np.zeros((2, 96, 96, 4), np.uint8),
        np.zeros((2, 15, 96, 3), np.uint8),
        np.zeros((2, 96, 96, 3), np.float32),
    ],
)
def test_another_shape_or_type_is_refused(images):
    with pytest.raises(InputError, match="got"):
        measure_attributes(images)


def load(folder, class_name, limit, side=64):
    images = [
        each
        for each in list_images(ASSETS / folder / "train")
        if class_name is None or each.class_name == class_name
    ]
    step = max(1, len(images) // limit)
    picked = images[::step][:limit]
    return np.stack([fit_image(each.read_pixels(), side, side, "resize") for each in picked])


def test_real_tissues_stand_in_the_known_order():
    median = {
        name: {key: np.nanmedian(values) for key, values in measure_attributes(images).items()}
        for name in ("ADI", "LYM", "MUS", "NORM", "STR", "TUM")
        for images in [load("crc-val-7k", name, 7)]
    }

    def order(attribute, *names):
        return rise([median[name][attribute] for name in names])

    assert order("fat", "NORM", "ADI")
    assert order("tissue", "ADI", "NORM", "TUM")
    assert order("nuclear_density", "ADI", "MUS", "TUM")
    assert order("nuclear_size", "LYM", "TUM")
    assert order("eosin", "LYM", "NORM", "MUS")


def test_lymph_nodes_have_smaller_nuclei_than_metastases_in_them():
    normal, tumor = (measure_attributes(load("pcam", name, 300)) for name in ("normal", "tumor"))
    sizes = [
        each["nuclear_size"][(each["nuclear_density"] > 0.15) & (each["tissue"] > 0.7)]
        for each in (normal, tumor)
    ]
    assert np.median(sizes[1]) > np.median(sizes[0]) + 0.5


def test_measures_follow_the_stain_of_a_real_image_and_say_different_things():
    images = load("pcam", None, 200)
    density = -np.log10((images + 1.0) / 256.0)
    paler = np.clip(np.round(256 * 10 ** -(0.7 * density) - 1), 0, 255).astype(np.uint8)
    before, after = measure_attributes(images), measure_attributes(paler)
    for name in ("haematoxylin", "eosin"):
        both = ~np.isnan(before[name]) & ~np.isnan(after[name])
        assert np.mean(after[name][both] < before[name][both]) > 0.95
    assert np.median(np.abs(after["nuclear_density"] - before["nuclear_density"])) < 0.06
    known = ~np.isnan(before["nuclear_size"])
    for other in ("nuclear_density", "haematoxylin"):
        rho = spearmanr(before["nuclear_size"][known], before[other][known])[0]
        assert abs(rho) < 0.5
