"""Layouts: masks drawn as real ones lie, from a seed and an index alone."""

import numpy as np
import pytest

from factory.core.errors import SourceError
from factory.data.images import list_images
from factory.data.label_maps import INSTANCES, decode_labels
from factory.data.layouts import RAYS, DrawnMask, Layout, Pattern, Shapes, draw_pattern, read_layout
from factory.data.objects import compare_objects, find_objects, measure_objects
from factory.data.streams import Control
from factory.train.layout.fit import correlate, fit_pattern, trace_rays
from factory.train.layout.settings import LayoutSettings
from tests import ASSETS

NUCLEI = ASSETS / "masks" / "nuclei"


def make_pattern(density=1000.0, radius=4.0, **changes):
    discs = Shapes.encode(np.full((3, RAYS), radius))
    told = {
        "masks": 4,
        "densities": (density, density),
        "excess": 1.0,
        "step": 2.0,
        "interaction": (0.0,) * 16,
        "core": 1.0,
        "shares": {"1": 1.0},
        "shapes": {"1": discs},
    }
    return Pattern.model_validate(told | changes)


def make_layout(**changes):
    return Layout(name="l", palette={"1": "nucleus"}, window=(64, 64), patterns=changes)


def draw(pattern, seed=0, width=128, height=96, **options):
    return draw_pattern(pattern, np.random.default_rng(seed), width, height, **options)


@pytest.fixture(scope="module")
def real():
    found = [decode_labels(image.read_bytes(), image.place) for image in list_images(NUCLEI)]
    return [find_objects(labels, False) for labels in found]


@pytest.fixture(scope="module")
def fitted(real):
    return fit_pattern(real, 1, LayoutSettings(rounds=2), "nuclei", lambda line: None)


# --- objects -------------------------------------------------------------------------------------


def test_objects_are_parts_of_one_id_or_coded_ones():
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:8], labels[6:10, 8:12], labels[12:18, 20:26] = 1, 1, 2
    labels[0, 29] = 1
    found = find_objects(labels, False)
    assert found.ids.tolist() == [1, 2]
    assert found.areas.tolist() == [24 + 16, 36]
    assert found.centres[1].tolist() == [22.5, 14.5]
    coded = np.where(labels == 2, 2001, 0).astype(np.uint16)
    coded[2:6, 2:8], coded[6:10, 8:12] = 1001, 1002
    assert find_objects(coded, True).areas.tolist() == [24, 16, 36]
    assert len(find_objects(np.zeros((8, 8), np.uint8), False).areas) == 0


def test_distributions_are_those_of_the_masks():
    labels = np.zeros((10, 20), np.uint8)
    labels[1:4, 1:4], labels[1:4, 11:14] = 1, 1
    measured = measure_objects([find_objects(labels, False)] * 2)
    assert measured["count"].tolist() == [2, 2]
    assert measured["area"].tolist() == [9] * 4
    assert measured["nearest"].tolist() == [10] * 4
    assert np.allclose(measured["coverage"], 18 / 200)
    other = np.zeros((10, 20), np.uint8)
    other[1:4, 1:4] = 1
    far = compare_objects([find_objects(labels, False)], [find_objects(other, False)])
    assert far["count"] == 1
    assert far["area"] == 0
    assert far["coverage"] == pytest.approx(9 / 200)
    assert np.isnan(far["nearest"])


# --- drawing -------------------------------------------------------------------------------------


def test_a_layout_is_a_pure_function_of_seed_and_index():
    layout = make_layout(all=make_pattern())
    first = DrawnMask(layout, "all", 7, 10**9)
    again = DrawnMask(Layout.parse(layout.dump()), "all", 7, 10**9)
    assert first == again and hash(first) == hash(again)
    assert np.array_equal(first.read(64, 48), again.read(64, 48))
    assert first.read(64, 48).shape == (48, 64)
    others = [DrawnMask(layout, "all", 7, 3), DrawnMask(layout, "all", 8, 10**9)]
    for other in others:
        assert other != first
        assert not np.array_equal(other.read(64, 48), first.read(64, 48))


def test_the_identity_is_of_what_shapes_the_mask():
    pattern = make_pattern()
    told = {"distance": 1.0, "floor": 1.0}
    measured = pattern.model_copy(update={"measured": {"count": told}, "masks": 9})
    layout = make_layout(all=pattern)
    assert make_layout(all=measured).sha256 == layout.sha256
    assert make_layout(all=make_pattern(core=0.5)).sha256 != layout.sha256
    control = Control(DrawnMask(layout, "all", 1, 2, 0.5), layout.ids, True)
    described = {"layout": layout.sha256, "pattern": "all", "seed": 1, "index": 2, "zoom": 0.5}
    more = {"palette": {"1": "nucleus"}, "instances": True}
    assert control.identity() == {**described, **more}
    assert set(np.unique(control.load(64, 64))) == {0, 1}


def test_discs_have_the_area_and_density_asked_for_and_do_not_meet():
    pattern = make_pattern(density=2000.0, radius=4.0)
    found = [find_objects(draw(pattern, seed, gap=1), True) for seed in range(12)]
    inner = np.concatenate(
        [each.areas[((each.centres > 6) & (each.centres < [122, 90])).all(1)] for each in found]
    )
    assert abs(inner.mean() / (np.pi * 16) - 1) < 0.12
    nearest = measure_objects(found)["nearest"]
    assert np.quantile(nearest, 0.1) > 6
    per_window = 2000 * 128 * 96 / 1e6
    counted = np.mean([len(each.areas) for each in found])
    assert abs(counted / per_window - 1) < 0.25


def test_an_attraction_draws_objects_together_and_a_repulsion_apart():
    nearest = {}
    for name, strength in (("together", 1.5), ("free", 0.0), ("apart", -4.0)):
        bent = (0.0,) * 4 + (strength,) * 4 + (0.0,) * 8
        pattern = make_pattern(density=1500.0, radius=2.0, interaction=bent, step=3.0)
        found = [find_objects(draw(pattern, seed), True) for seed in range(6)]
        nearest[name] = correlate(found, 3.0)[4:8].mean()
    assert nearest["together"] > 1.3 * nearest["free"] > 1.3 * 2 * nearest["apart"]


def test_zoom_enlarges_all_and_keeps_what_is_covered():
    pattern = make_pattern(density=2000.0, radius=4.0)
    plain = [find_objects(draw(pattern, seed, 96, 96), True) for seed in range(10)]
    large = [find_objects(draw(pattern, seed, 192, 192, zoom=2.0), True) for seed in range(10)]
    one, two = measure_objects(plain), measure_objects(large)
    assert two["area"].mean() / one["area"].mean() == pytest.approx(4, rel=0.15)
    assert two["count"].mean() == pytest.approx(one["count"].mean(), rel=0.2)
    assert two["coverage"].mean() == pytest.approx(one["coverage"].mean(), rel=0.2)


def test_ids_come_in_their_shares():
    shapes = Shapes.encode(np.full((2, RAYS), 2.0))
    pattern = make_pattern(
        density=4000.0, shares={"1": 0.75, "3": 0.25}, shapes={"1": shapes, "3": shapes}
    )
    ids = np.concatenate([find_objects(draw(pattern, seed), True).ids for seed in range(8)])
    assert set(ids.tolist()) == {1, 3}
    assert abs((ids == 1).mean() - 0.75) < 0.08


def test_more_objects_than_16_bits_hold_are_refused():
    pattern = make_pattern(density=30_000.0, radius=1.0, core=0.1)
    with pytest.raises(SourceError, match=f"more than {INSTANCES - 1} objects of one name on 256"):
        draw(pattern, 0, 256, 256)


def test_what_is_no_layout_is_refused(tmp_path):
    path = tmp_path / "l.json"
    with pytest.raises(SourceError, match="cannot be read"):
        read_layout(path)
    path.write_text('{"name": "x"}')
    with pytest.raises(SourceError, match=r"l\.json: no layout \(damaged, palette: Field required"):
        read_layout(path)


# --- fitting -------------------------------------------------------------------------------------


def test_an_outline_has_the_area_and_shape_of_its_mask():
    rows, columns = np.mgrid[:41, :41] - 20
    ellipse = (columns / 15) ** 2 + (rows / 8) ** 2 <= 1
    radii = trace_rays(ellipse, np.array([20.0, 20.0]))
    assert radii[0] == pytest.approx(15, abs=1)
    assert radii[RAYS // 4] == pytest.approx(8, abs=1)
    area = 0.5 * np.sin(2 * np.pi / RAYS) * (radii * np.roll(radii, -1)).sum()
    assert area == pytest.approx(ellipse.sum())


def test_what_is_drawn_lies_as_the_real_masks_do(real, fitted):
    """Within twice the floor of real masks against real masks, where discs at random are not."""
    assert fitted.masks == 16
    for measure, found in fitted.measured.items():
        assert found["distance"] < 2 * found["floor"] + 0.01, (measure, found)
    discs = make_pattern(density=float(np.mean(fitted.densities)), radius=8.0, core=0.0)
    free = [find_objects(draw(discs, seed, 128, 128), True) for seed in range(16)]
    far = compare_objects(free, real)
    assert far["area"] > 2 * fitted.measured["area"]["floor"]


def test_too_few_masks_are_refused(real):
    with pytest.raises(SourceError, match="nuclei: 3 masks, but a pattern needs 4 or more"):
        fit_pattern(real[:3], 1, LayoutSettings(), "nuclei", print)
