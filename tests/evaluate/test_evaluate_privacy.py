"""Membership: copies give away who was used, images of nobody do not; leaks are refused."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import factory
from factory.core.errors import InputError
from factory.evaluate.privacy.study import measure_attack
from tests.evaluate.test_evaluate_control import paint


def write_images(folder, seeds, is_turned=False):
    folder.mkdir(parents=True)
    for seed in seeds:
        pixels = paint(seed % 3, seed, 48)
        pixels = np.rot90(pixels) // 2 * 2 if is_turned else pixels
        Image.fromarray(pixels).save(folder / f"P{seed // 2}_{seed}.png")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("privacy")
    write_images(root / "used", range(20))
    write_images(root / "held", range(100, 120))
    write_images(root / "copies", range(20), is_turned=True)
    write_images(root / "free", range(200, 230))
    return root


def attack(sets, synthetic, **more):
    asked = {"real": sets / "used", "held_out": sets / "held", "synthetic": sets / synthetic}
    settings = {"encoder": "color-texture", "group_pattern": r"^(P\d+)_", **more}
    return factory.run_evaluation("privacy", {**asked, **settings})


def test_copies_give_members_away_and_free_images_do_not(sets):
    found = attack(sets, "copies")
    for name in ("distance", "similarity"):
        area = found["attacks"][name]["auroc"]
        assert area["mean"] > 0.9 and area["low"] > 0.8, name
    assert "over groups" in found["scope"] and not found["warnings"]
    free = attack(sets, "free")
    for name in ("distance", "similarity"):
        area = free["attacks"][name]["auroc"]
        assert area["low"] < 0.5 < area["high"], (name, area)


def test_the_area_is_sklearns_and_patients_widen_the_interval():
    draw = np.random.default_rng(2)
    scores = np.repeat(draw.normal(size=30), 4)  # four like images of each patient
    scores[:60] += 0.5
    owners = np.repeat(np.arange(15), 4)
    by_patient = measure_attack(scores, 60, [owners, owners], 0)
    by_image = measure_attack(scores, 60, [None, None], 0)
    assert by_image["mean"] == pytest.approx(roc_auc_score(np.arange(120) < 60, scores))
    widths = [each["high"] - each["low"] for each in (by_patient, by_image)]
    assert widths[0] > 1.5 * widths[1]


def test_patients_on_both_sides_are_refused(sets, tmp_path):
    write_images(tmp_path / "held", [1, 100, 101, 102, 103])
    with pytest.raises(InputError, match="share"):
        attack(sets, "free", held_out=tmp_path / "held")
