"""Attribute control: images that follow their captions score high, shuffled captions do not."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.evaluate.control.study import Answers, evaluate_control, read_values, score_answers
from factory.evaluate.image_sets import list_set
from tests.running import call

GRID = load_catalogs().find_captions("he-attributes")
VALUES = tuple(GRID.attributes["density"])


def paint(rank, seed, size=64):
    """Pink tissue with more dark nuclei the higher the rank."""
    draw = np.random.default_rng(seed)
    pixels = np.full((size, size, 3), (225, 170, 205), float)
    rows, columns = np.mgrid[:size, :size]
    for _ in range((4, 22, 60)[rank]):
        y, x = draw.uniform(0, size, 2)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < 16] = (90, 50, 130)
    return (pixels + draw.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)


def write_set(root, shuffled=False, count=24):
    root.mkdir()
    ranks = [row % 3 for row in range(count)]
    told = random.Random(1).sample(ranks, count) if shuffled else ranks
    lines = []
    for row, (rank, asked) in enumerate(zip(ranks, told, strict=True)):
        Image.fromarray(paint(rank, row)).save(root / f"{row:03d}.png")
        wording = GRID.attributes["density"][VALUES[asked]]
        caption = f"A patch with {wording[row % len(wording)] if wording else VALUES[asked]}."
        lines.append(json.dumps({"file_name": f"{row:03d}.png", "caption": caption}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def test_images_that_follow_score_high(tmp_path):
    found = evaluate_control(list_set(write_set(tmp_path / "a")), GRID)["attributes"]["density"]
    assert found["images"] == 24
    assert found["rho"]["mean"] > 0.9
    assert found["rho"]["low"] > 0.8
    assert found["exceeds_chance"]
    assert found["within_one_bin"]["mean"] == 1.0
    means = [found["mean_measured"][str(rank)] for rank in range(3)]
    assert means == sorted(means)


def test_shuffled_captions_stay_at_chance(tmp_path):
    images = list_set(write_set(tmp_path / "a", shuffled=True, count=60))
    found = evaluate_control(images, GRID)["attributes"]["density"]
    assert found["rho"]["low"] < 0 < found["rho"]["high"]
    assert not found["exceeds_chance"]
    assert found["same_bin"]["mean"] == pytest.approx(found["if_ignored"]["same_bin"], abs=0.15)


def test_every_wording_of_the_grid_is_read_as_its_value():
    for name in GRID.measures:
        for value, wordings in GRID.attributes[name].items():
            for wording in wordings or (value,):
                assert read_values(GRID, f"A patch of x with {wording}.").get(name) == value, (
                    wording
                )


def test_a_caption_that_asks_for_two_values_asks_for_none():
    low, high = (GRID.attributes["density"][value][0] for value in (VALUES[0], VALUES[-1]))
    assert "density" not in read_values(GRID, f"{low}, then {high}")
    assert read_values(GRID, "a photograph of a cat") == {}


def test_rho_is_scipys():
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    asked, numbers = draw.integers(0, 3, 40), draw.normal(size=40)
    found = score_answers(Answers(asked, asked, numbers), 0)["rho"]["mean"]
    assert found == pytest.approx(spearmanr(asked, numbers).statistic, rel=1e-9)


@pytest.mark.stranger
def test_sets_without_captions_are_refused(tmp_path):
    Image.fromarray(paint(0, 0)).save(tmp_path / "a.png")
    answer = call("evaluate", "control", "--synthetic", str(tmp_path))
    assert answer.exit_code == 2
    assert "no image has a caption" in answer.stderr.strip().splitlines()[-1]
    with pytest.raises(InputError, match="no image has a caption"):
        evaluate_control(list_set(tmp_path), GRID)
    lines = json.dumps({"file_name": "a.png", "caption": "a cat"})
    (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(InputError, match="captions say nothing that he-attributes measures"):
        evaluate_control(list_set(tmp_path), GRID)


def test_command_prints_and_writes(tmp_path):
    root = write_set(tmp_path / "a")
    out = tmp_path / "r.json"
    told = call("evaluate", "control", "--synthetic", str(root), "--json", str(out))
    assert told.exit_code == 0, told.output
    assert "Spearman rho" in told.output
    assert "not asked for, or too seldom: " in told.output
    stored = json.loads(Path(out).read_text())
    assert stored["attributes"]["density"]["rho"]["mean"] > 0.9
