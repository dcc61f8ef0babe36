"""Another stain moves no tissue: on real tiles, and as drawn strengths are bent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.catalog.catalog import load_catalogs
from factory.core.metrics.structure import correlate_in_tissue
from factory.core.stain_transfer import (
    REFERENCE,
    SQUEEZE,
    STRETCH,
    StainLook,
    bound_contrast,
    give_look,
    measure_look,
    normalise,
    restain,
)
from factory.core.stains import TISSUE_STRENGTH, find_tissue, measure_attributes, segment_nuclei
from factory.core.tissue import LEAST_GAIN, MOST_GAIN, _bend, keep_tissue
from factory.data.images import list_images
from tests import ASSETS

LOOKS = ("cmu-1", "brecahad", "nuinsseg-liver")


def read_tiles(*names):
    images = [each for name in names for each in list_images(ASSETS / name)]
    return np.stack([each.read_pixels() for each in images])


@pytest.fixture(scope="module")
def tiles():
    return read_tiles("pcam/train", "crc-val-7k/train")[::2]


def find_looks():
    entry = load_catalogs().find_stains("he-slides")
    return {name: entry.find_look(name) for name in LOOKS}


def test_tissue_and_open_space_stay_in_any_stain(tiles):
    before, tissue = measure_attributes(tiles), find_tissue(tiles)
    assert 0.3 < tissue.mean() < 0.97  # there is some to lose, and to get
    for look in find_looks().values():
        made = np.stack([restain(each, look) for each in tiles])
        after = measure_attributes(made)
        for name in ("tissue", "fat"):
            assert abs(after[name].mean() - before[name].mean()) < 0.004
            assert np.abs(after[name] - before[name]).max() < 0.05
        assert (find_tissue(made) != tissue).mean() < 0.006
        kept = correlate_in_tissue(tiles, made)
        assert np.nanmean(kept) > 0.99 and np.nanmin(kept) > 0.9


def test_a_look_is_reached_on_average(tiles):
    for look in find_looks().values():
        found = [measure_look([restain(each, look)]) for each in tiles]
        means = np.array([each.mean for each in found if each is not None])
        assert len(means) > 15
        assert np.abs(means.mean(0) - look.mean).max() < 0.05


def test_nuclei_are_the_same_once_normalised(tiles):
    tiles = tiles[::2]
    plain = segment_nuclei(normalise(tiles))
    for look in find_looks().values():
        made = np.stack([restain(each, look) for each in tiles])
        again = segment_nuclei(normalise(made))
        assert 2 * (plain & again).sum() / (plain.sum() + again.sum()) > 0.95


def test_contrast_is_bounded():
    own = StainLook((0.0, 0.0, 0.0), (0.1, 0.2, 0.4))
    look = StainLook((1.0, 2.0, 3.0), (1.0, 0.2, 0.0))
    found = bound_contrast(look, own)
    assert found.mean == look.mean
    assert found.spread == pytest.approx((STRETCH * 0.1, 0.2, SQUEEZE * 0.4))
    assert bound_contrast(found, own) == found


def test_an_image_is_not_stretched_to_any_contrast_of_a_look(tiles):
    own = measure_look([tiles[-1]])
    assert own is not None
    look = StainLook(own.mean, tuple(3 * each for each in own.spread))
    found, free = (
        measure_look([restain(tiles[-1], look)]),
        measure_look([give_look(tiles[-1], look)]),
    )
    assert found.spread[0] < 1.5 * own.spread[0] < 2 * own.spread[0] < free.spread[0]


@given(st.floats(LEAST_GAIN, MOST_GAIN))
def test_strength_rises_and_stays_at_the_threshold_and_in_glass(gain):
    strengths = np.linspace(-0.05, 1.0, 2001)
    bent = _bend(strengths, gain)
    assert (np.diff(bent) > -1e-12).all()
    assert _bend(np.array([0.0, TISSUE_STRENGTH]), gain) == pytest.approx([0.0, TISSUE_STRENGTH])
    assert ((bent > TISSUE_STRENGTH + 1e-9) <= (strengths > TISSUE_STRENGTH)).all()
    low = strengths[strengths < 0.1 * TISSUE_STRENGTH]
    assert np.abs(_bend(low, gain) - low).max() < 0.003


def test_what_is_made_of_glass_alone_stays_as_strong():
    glass = np.full((32, 32, 3), 245, np.uint8)
    for made in (np.full_like(glass, (200, 120, 190)), glass):
        assert not find_tissue(keep_tissue(made, glass)[None]).any()
    assert np.abs(restain(glass, REFERENCE).astype(int) - glass).max() <= 1
