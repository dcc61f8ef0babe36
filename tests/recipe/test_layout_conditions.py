"""Images of masks that are drawn: fitted on the command line, planned, kept, made again."""

import json

import numpy as np
import pytest

from factory.api import load_recipe
from factory.catalog.catalog import load_catalogs
from factory.data.layouts import DrawnMask, read_layout
from factory.data.patients import read_patients
from factory.engine.dataset import open_dataset
from factory.engine.plan import build_plan
from factory.publish.verify import VerifyOptions, verify_set
from tests import ASSETS
from tests.running import ask, read_rows, run, write_recipe

MASKS = ASSETS / "masks" / "nuclei"
GENERATOR = {"model": "fake", "width": 64, "height": 64, "batch_size": 4}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A layout of two classes, fitted in one round: far from good, but whole."""
    path = tmp_path_factory.mktemp("layout") / "nuclei.json"
    terms = ("--license", "cc-by-4.0", "--date-read", "2026-11-26", "--attribution", "A. Mahbod")
    told = ask("train", "layout", "--data", MASKS, "--out", path, "--rounds", 1, *terms)
    assert "human_liver: count: " in told and "(theirs: " in told
    return path


def write(folder, layout, **block):
    asked = {"kind": "layout", "layout": str(layout), "per_class": 2, **block}
    return write_recipe(
        folder, generator=GENERATOR, conditions=[asked], filters=[], budget={"attempts": 1}
    )


def plan(recipe):
    loaded = load_recipe(recipe)
    return build_plan(loaded.recipe, loaded.session).series


def test_the_file_holds_patterns_terms_and_what_was_measured(layout):
    found = read_layout(layout)
    assert set(found.patterns) == {"human_liver", "human_pancreas"}
    assert found.licence["id"] == "cc-by-4.0"
    assert found.gap == 1
    for pattern in found.patterns.values():
        assert pattern.masks == 8
        assert set(pattern.measured) == {"count", "area", "nearest", "coverage"}
    assert layout.stat().st_size < 60_000
    assert read_patients(layout).images == 16


def test_a_plan_of_any_size_is_a_rule_not_a_list(tmp_path, layout):
    liver, pancreas = plan(write(tmp_path / "a", layout, per_class=10**9))
    assert (liver.count, liver.class_names) == (10**9, ("human_liver",))
    last = liver.request_at(10**9 - 1)
    assert last.condition.describe()["control"]["index"] == 10**9 - 1
    assert last.condition.class_name == "human_liver"
    assert liver.key != pancreas.key
    few = plan(write(tmp_path / "b", layout, per_class=3))[0]
    assert [few.request_at(i) for i in range(3)] == [liver.request_at(i) for i in range(3)]


def test_each_layout_has_its_images_one_after_the_other(tmp_path, layout):
    series = plan(write(tmp_path, layout, per_class={"human_liver": 6}, per_layout=2))[0]
    found = [series.request_at(index) for index in range(6)]
    assert [each.condition.describe()["control"]["index"] for each in found] == [0, 0, 1, 1, 2, 2]
    assert [each.ordinal for each in found] == [0, 1] * 3
    assert len({(each.condition.key, each.ordinal) for each in found}) == 6


def test_rows_keep_the_objects_and_are_made_again_without_the_layout(tmp_path, layout):
    copy = tmp_path / "copy.json"
    copy.write_bytes(layout.read_bytes())
    run(write(tmp_path, copy, per_class=1), tmp_path / "run")
    copy.unlink()
    rows = read_rows(tmp_path / "run")
    assert [row["class_name"] for row in rows] == ["human_liver", "human_pancreas"]
    for row in rows:
        identity = json.loads(row["provenance"])["condition"]["control"]
        assert identity["instances"] is True
    report = verify_set(open_dataset(str(tmp_path / "run")), VerifyOptions(regenerate=2))
    assert [each.status for each in report.rebuilt] == ["exact", "exact"]


def test_the_terms_of_the_shapes_are_told(tmp_path, layout):
    told = ask("plan", write(tmp_path, layout), "--no-calibrate", "--json")
    assert "A. Mahbod" in json.dumps(json.loads(told)["terms"])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"layout": "nowhere.json"}, "conditions[0].layout: "),
        ({"layout": "nowhere"}, "conditions[0].layout: no layout 'nowhere'"),
        ({"per_class": {"human_livr": 1}}, "human_livr: no class 'human_livr' in layout nuclei"),
        ({"zoom": 0}, "conditions[0].zoom: "),
        ({"caption": "{organ}"}, "conditions[0].caption: unknown {organ}"),
    ],
)
def test_mistakes_have_field_and_remedy(tmp_path, layout, block, message):
    told = ask("validate", write(tmp_path, **{"layout": layout, **block}), code=2)
    assert message in told
    assert "recipe.yaml:" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--class", "liver"), "--class: "),
        (("--license", "cc0-1.0"), "--date-read: say when you read the licence"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(tmp_path, options, message):
    words = ("train", "layout", "--data", MASKS, "--out", tmp_path / "l.json", *options)
    assert message in ask(*words, code=2)
    assert not (tmp_path / "l.json").exists()


def test_masks_of_other_ids_or_sizes_are_refused(tmp_path):
    words = ("train", "layout", "--out", tmp_path / "l.json", "--data")
    told = ask(*words, ASSETS / "masks" / "glands", code=2)
    assert "has the id 2, but --name gives 1: name all, or take --values objects" in told


def test_what_ships_draws_masks_of_each_of_its_classes():
    found = read_layout(load_catalogs().find_layout("nuinsseg"))
    assert found.licence["id"] == "cc-by-4.0" and "Mahbod" in found.licence["attribution"][0]
    for name, pattern in found.patterns.items():
        labels = DrawnMask(found, name, 0, 1).read(128, 128)
        assert labels.max() > 1000, name
        assert pattern.measured["nearest"]["distance"] < 2 * pattern.measured["nearest"]["floor"]
    assert np.isin(labels // 1000, [0, 1]).all()
