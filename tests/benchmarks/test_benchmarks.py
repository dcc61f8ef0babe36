"""What the benchmarks of models compute: draws, resampling, control scores, captions, sheets."""

import sys

import numpy as np
import pytest
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.data.images import fit_image, list_images
from tests import ASSETS, ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # scripts import each other by bare names

from control import FORMS, Asked, ask_wordings, caption_images, keep_templates, score
from measures import (
    Images,
    augment,
    compare_copies,
    draw_evenly,
    find_interval,
    resample_scores,
    score_classes,
)
from restain import measure_tiles, thin
from sheets import save_sheets

GRID = load_catalogs().find_captions("he-attributes")


def draw_pixels(count, size=48, seed=0):
    """Blobs of several scales: smooth enough to survive a crop, unlike each other."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, 6, 6, 3), np.uint8)
    sized = [
        Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in coarse
    ]
    return np.stack([np.asarray(each) for each in sized])


def test_draws_take_as_many_of_each_class_and_none_twice():
    labels = np.array(["a"] * 50 + ["b"] * 9)
    rows = draw_evenly(labels, 16, seed=1, key="test")
    assert sorted(labels[rows]) == ["a"] * 8 + ["b"] * 8
    assert len(set(rows)) == 16
    assert not np.array_equal(rows, draw_evenly(labels, 16, seed=2, key="test"))


def test_augmentations_copy_their_images_and_keep_the_classes():
    images = Images(draw_pixels(4), np.array(["a", "a", "b", "b"]))
    made = augment(images, 24, seed=0)
    assert list(made.labels) == list(np.resize(images.labels, 24))
    assert (compare_copies(made.pixels, images.pixels) > 0.6).all()
    assert np.median(compare_copies(draw_pixels(24, seed=5), images.pixels)) < 0.5
    assert len(np.unique(made.pixels.reshape(24, -1), axis=0)) == 24


def test_bootstrap_intervals_hold_the_score_and_keep_predictions_paired():
    draw = np.random.default_rng(0)
    truth = np.repeat(["a", "b"], [40, 160])
    guess = np.where(draw.random(200) < 0.8, truth, "a")
    scores, same = resample_scores(truth, [guess, guess], seed=3)
    low, high = find_interval(scores)
    assert low < score_classes(truth, guess) < high
    assert 0.02 < high - low < 0.3
    assert np.array_equal(scores, same)  # so the ratio of equal classifiers is 1 without spread
    assert score_classes(truth, np.full(200, "b")) == 0.5


@pytest.mark.parametrize("follows", [True, False])
def test_control_scores_tell_an_obedient_model_from_one_that_ignores_captions(follows):
    ranks = np.repeat([0, 1, 2], 60)
    bins = ranks if follows else np.random.default_rng(0).permutation(ranks)
    numbers = bins + np.random.default_rng(1).random(180)
    found = score(numbers, bins, [Asked(int(r), "", "") for r in ranks], GRID, "density")
    assert found["if_ignored"]["within_one_bin"] == pytest.approx(7 / 9, abs=0.001)
    assert found["if_ignored"]["same_bin"] == pytest.approx(1 / 3, abs=0.001)
    if follows:
        assert (found["within_one_bin"], found["same_bin"]) == (1.0, 1.0)
        assert found["spearman"] > 0.94
        assert list(found["mean_measured"]) == ["low", "medium", "high"]
    else:
        assert abs(found["spearman"]) < 0.2
        assert abs(found["same_bin"] - 1 / 3) < 0.12


def test_images_without_a_measure_are_in_no_bin():
    asked = [Asked(rank, "", "") for rank in (0, 1, 2, 2)]
    numbers, bins = np.array([1.0, 2.0, 3.0, np.nan]), np.array([0, 1, 2, -1])
    found = score(numbers, bins, asked, GRID, "size")
    assert (found["without_measure"], found["within_one_bin"], found["same_bin"]) == (1, 0.75, 0.75)
    assert found["spearman"] == 1.0


def test_control_captions_name_the_organ_and_every_wording_in_every_form():
    wordings = GRID.attributes["density"]
    asked = ask_wordings(GRID, "density", "lymph node", 40)
    assert len(asked) == 120
    assert {each.phrase for each in asked if each.rank == 2} == set(wordings["high"])
    assert all("lymph node" in each.caption and each.phrase in each.caption for each in asked)
    forms = {
        each.caption.replace(each.phrase, "X") for each in asked if each.phrase == "few nuclei"
    }
    assert forms == {form.format(organ="lymph node", phrase="X") for form in FORMS}


def test_captions_of_real_images_always_name_what_is_known_of_all():
    organs = GRID.attributes["organ"]["colon"]
    captions = caption_images(GRID, draw_pixels(30), {"organ": "colon"}, seed=0)
    assert all(any(organ in caption for organ in organs) for caption in captions)
    assert len(set(captions)) > 25
    kept = keep_templates(GRID, {"organ", "magnification"})
    assert 0 < len(kept.templates) < len(GRID.templates)
    assert all("{organ}" in text and "{magnification}" in text for text in kept.templates)


def test_sheets_are_split_so_that_each_stays_below_a_megabyte(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)
    files = save_sheets([(f"class {row}", noise) for row in range(13)], tmp_path, "classes")
    assert files == ["classes-0.png", "classes-1.png", "classes-2.png"]
    heights = [Image.open(tmp_path / file).height for file in files]
    assert sum(heights) == 13 * 98
    assert all((tmp_path / file).stat().st_size < 1_000_000 for file in files)
    assert save_sheets([("a", noise)], tmp_path, "one") == ["one.png"]


def test_real_tiles_in_other_stains_keep_their_nuclei():
    images = thin(list_images(ASSETS / "pcam" / "train"))
    tiles = np.stack([fit_image(each.read_pixels(), 64, 64, "crop") for each in images[:5]])
    found, alone, kept, by_jpeg = measure_tiles(tiles)
    assert "normalised nuclear_density" not in alone["moving"]
    assert found["tissue"]["spread"] < 0.003
    assert found["stain_l"]["spread"] > 0.2
    assert kept["haematoxylin"].mean() > by_jpeg["haematoxylin"].mean() > 0.9
