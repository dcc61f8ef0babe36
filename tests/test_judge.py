"""`factory judge`: images that something else made, through the line that judges samples."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from factory.cli import main
from factory.fingerprint import hash_bytes
from tests.running import read_rows, run, write_recipe

REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "pcam-mini"


FILTERS = [{"kind": "finite"}, {"kind": "tissue", "min_fraction": 0.2}, {"kind": "near_duplicate"}]


def write_image(path, seed, size=32, ground=(200, 120, 170)):
    noise = np.random.default_rng(seed).integers(-60, 60, (size, size, 3))
    pixels = (np.array(ground) + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def data(tmp_path):
    """Six noisy images of two classes and sizes, two blank ones, and a copy."""
    folder = tmp_path / "data"
    for index in range(3):
        write_image(folder / "normal" / f"{index}.png", index)
        write_image(folder / "tumor" / f"{index}.png", 10 + index, size=48)
    for name in ("normal", "tumor"):
        Image.new("RGB", (32, 32), "white").save(folder / name / "blank.png")
    (folder / "normal" / "copy.png").write_bytes((folder / "normal" / "0.png").read_bytes())
    return folder


def judge(data, recipe, out, *more):
    arguments = ["judge", "--data", str(data), "--recipe", str(recipe), "--out", str(out), *more]
    return CliRunner().invoke(main, arguments)


def test_folder_is_judged_into_the_tables_of_a_run(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", filters=FILTERS)
    result = judge(data, recipe, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "6 of 9 accepted, 9 judged" in result.output
    assert "rejected by finite: 2" in result.output
    assert "SHORTFALL" not in result.output
    rows, others = read_rows(tmp_path / "out"), read_rows(tmp_path / "out", "rejected")
    assert sorted(row["class_name"] for row in rows) == ["normal"] * 3 + ["tumor"] * 3
    assert sorted(row["rejected_by"] for row in others) == ["finite", "finite", "near_duplicate"]
    for row in (*rows, *others):
        given = json.loads(row["provenance"])["condition"]["given"]
        source = data / given["name"]
        assert given["sha256"] == hash_bytes(source.read_bytes())
        stored = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        assert np.array_equal(stored, np.asarray(Image.open(source).convert("RGB")))
        assert b"trainedAlgorithmicMedia" not in row["image"]["bytes"]
        assert row["scores"]["contrast"] is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 of 9 given histopathology images, **judged, not generated**" in card
    assert "- synthetic" not in card and "trainedAlgorithmicMedia" not in card


def test_same_command_resumes_and_refilter_decides_anew(data, tmp_path):
    recipe, out = write_recipe(tmp_path / "recipe", filters=FILTERS), tmp_path / "out"
    assert judge(data, recipe, out).exit_code == 0
    first = {row["sample_id"] for row in read_rows(out)}
    marker = next((out / ".factory" / "shards").glob("*.json"))
    marker.unlink()
    assert judge(data, recipe, out).exit_code == 0
    assert {row["sample_id"] for row in read_rows(out)} == first
    again = CliRunner().invoke(
        main,
        [
            "refilter",
            str(out),
            "--set",
            "filters.finite.min_contrast=0.0",
            "--set",
            "filters.finite.max_saturated_fraction=1.0",
            "--set",
            "filters.tissue.min_fraction=0.0",
        ],
    )
    assert again.exit_code == 0, again.output
    assert len(read_rows(out)) == 8  # all but the copy


def test_pick_keeps_some_of_what_is_there(data, tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 2}
    recipe = write_recipe(tmp_path / "recipe", pick=pick, filters=[{"kind": "finite"}])
    assert judge(data, recipe, tmp_path / "out").exit_code == 0
    assert len(read_rows(tmp_path / "out")) == 4  # 5 // 2 and 4 // 2


def test_finished_run_is_judged_by_other_filters(tmp_path):
    recipe = write_recipe(tmp_path / "made")
    run(recipe, tmp_path / "run")
    strict = write_recipe(tmp_path / "strict", filters=[{"kind": "focus", "min_sharpness": 9.0}])
    result = judge(tmp_path / "run", strict, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["judged"], summary["asked"], summary["accepted"]) == (True, 23, 0)


def test_unreadable_images_are_all_named_before_any_is_judged(data, tmp_path):
    (data / "tumor" / "cut.png").write_bytes((data / "tumor" / "1.png").read_bytes()[:200])
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(data / "normal" / "deep.png")
    result = judge(data, write_recipe(tmp_path / "recipe", filters=FILTERS), tmp_path / "out")
    assert result.exit_code == 2
    assert "2 of 11 images cannot be read; nothing was judged" in result.output
    assert "deep.png: mode I;16 is not 8-bit RGB: convert it to RGB" in result.output
    assert "cut.png: not a readable image" in result.output
    assert not (tmp_path / "out").exists()


def test_class_that_the_classifier_does_not_know_is_refused(data, tmp_path):
    (data / "normal").rename(data / "fat")
    filters = [{"kind": "classifier", "model": "pcam"}]
    result = judge(data, write_recipe(tmp_path / "recipe", filters=filters), tmp_path / "out")
    assert result.exit_code == 2
    assert "classifier pcam does not know class 'fat'" in result.output
    assert not (tmp_path / "out").exists()


def test_given_images_and_a_model_do_not_mix(data, tmp_path):
    block = {"kind": "given", "images": str(data)}
    path = write_recipe(tmp_path / "recipe", conditions=[block])
    result = CliRunner().invoke(main, ["validate", str(path)])
    assert result.exit_code == 2
    assert "fake takes no given conditions" in result.output
    path = write_recipe(tmp_path / "other", generator={"model": "given"})
    result = CliRunner().invoke(main, ["validate", str(path)])
    assert result.exit_code == 2
    assert "given takes no class conditions: take given" in result.output


@pytest.mark.skipif(not REAL.is_dir(), reason="real patches are not here")
def test_real_patches_pass_the_default_filters(tmp_path):
    for name in ("normal", "tumor"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for path in sorted((REAL / "test" / name).iterdir())[:40]:
            Image.open(path).convert("RGB").crop((16, 16, 80, 80)).save(
                tmp_path / "data" / name / f"{path.stem}.png"
            )
    recipe = Path(__file__).parents[1] / "recipes" / "judge.yaml"
    result = judge(tmp_path / "data", recipe, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accepted"] >= 50
