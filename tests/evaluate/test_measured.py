"""Evaluations speak of the images that they measured: marked, left out and refused for others."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from factory.api import refilter
from factory.engine.dataset import Dataset
from factory.evaluate import find_kind
from factory.evaluate.image_sets import list_set
from factory.evaluate.measured import describe_data, explain_other, read_present
from factory.publish.card.facts import find_others, read_evaluations
from factory.publish.report import build_report
from tests.evaluate.test_evaluate_all import write_set
from tests.running import call, run, write_recipe

CLASSES = {"kind": "class", "per_class": {"coarse": 12, "fine": 12}}
STRICT = ("filters.tissue.min_fraction=0.6",)


@pytest.fixture
def made(tmp_path):
    out = tmp_path / "mine"
    filters = [{"kind": "tissue", "min_fraction": 0.0}]
    run(write_recipe(tmp_path, conditions=[CLASSES], filters=filters), out)
    return out


def publish(out):
    return call("publish", out, "--repo", "me/mine", "--dry-run", "--license", "other")


def thin_out(out):
    """Raises the threshold until some images go, and some stay."""
    before = read_present(Dataset(str(out)))
    shares = sorted(
        row["tissue_fraction"]
        for row in pq.read_table(out / "data", columns=["scores"])["scores"].to_pylist()
    )
    middle = (shares[0] + shares[-1]) / 2
    refilter(str(out), (f"filters.tissue.min_fraction={middle}",))
    assert 0 < read_present(Dataset(str(out))).rows < before.rows
    return middle


@pytest.mark.slow("test_figures_hold_again_when_the_images_are_the_same_again")
@pytest.mark.stranger
def test_figures_of_before_a_refilter_are_not_carried_on(made, tmp_path):
    real = [write_set(tmp_path / name, 20, first) for name, first in (("train", 0), ("test", 50))]
    sets = ["--real", real[0], "--test", real[1], "--synthetic", made]
    small = ["--size", "32", "--force", "--encoder", "color-texture", "--skip", "fewshot"]
    told = call("evaluate", "all", *sets, *small)
    assert told.exit_code == 0, told.output
    for name in ("fidelity", "copies", "tiers"):
        [data] = json.loads((made / "evaluation" / f"{name}.json").read_text())["data"]
        assert (data["name"], data["rows"]) == ("mine", 24)
        assert data["digest"] == read_present(Dataset(str(made))).digest
    assert "### tiers" in (made / "README.md").read_text()
    assert "Other images" not in build_report(str(made))[1]
    assert publish(made).exit_code == 0
    thin_out(made)
    left = read_present(Dataset(str(made))).rows
    card = (made / "README.md").read_text()
    assert "### tiers" not in card
    assert "**3 results are left out**, of other images than these:" in card
    assert f"measured on 24 images of mine, which are not the {left} images that are here" in card
    report = build_report(str(made))[1]
    assert report.count("<strong>Other images</strong>") == 3
    assert "closest pairs of synthetic and training images, side by side: measured on 24" in report
    refused = publish(made)
    assert refused.exit_code == 2
    again = f"factory evaluate all --real {real[0]} --test {real[1]} --synthetic {made}"
    assert f"measure again: {again}, or remove it" in refused.output
    assert call(*again.split()[1:], *small).exit_code == 0
    assert publish(made).exit_code == 0


def test_figures_hold_again_when_the_images_are_the_same_again(made):
    data = [list_set(made).describe_data()]
    middle = thin_out(made)
    assert explain_other({"data": data}, read_present(Dataset(str(made))))
    refilter(str(made), ("filters.tissue.min_fraction=0.0",))
    assert not explain_other({"data": data}, read_present(Dataset(str(made))))
    assert middle > 0


def test_growing_makes_figures_those_of_fewer_images(made, tmp_path):
    data = [list_set(made).describe_data()]
    more = {"kind": "class", "per_class": {"coarse": 14, "fine": 12}}
    filters = [{"kind": "tissue", "min_fraction": 0.0}]
    run(write_recipe(tmp_path, conditions=[more], filters=filters), made, extend=True)
    why = explain_other({"data": data}, read_present(Dataset(str(made))))
    assert why == "measured on 24 images of mine, which are not the 26 images that are here now"


def test_a_published_copy_has_the_same_digest(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made / "data", copy / "data")
    assert list_set(copy).describe_data()["digest"] == list_set(made).describe_data()["digest"]


def test_results_that_do_not_say_what_they_measured_are_left_out(made):
    folder = made / "evaluation"
    folder.mkdir()
    (folder / "own.json").write_text(json.dumps({"accuracy": {"mean": 0.9}, "data": "mine"}))
    results = read_evaluations(Dataset(str(made)))
    found = find_others(Dataset(str(made)), results)
    assert found == {"own": "does not say which images it measured"}
    assert call("card", made).exit_code == 0
    card = (made / "README.md").read_text()
    assert "**1 result is left out**" in card
    assert "0.9" not in card
    refused = publish(made)
    assert refused.exit_code == 2
    assert "own.json: does not say which images it measured: remove it" in refused.output


def test_sets_of_other_tools_are_known_by_their_files(tmp_path):
    first = write_set(tmp_path / "first", 3, 0)
    told = list_set(first).describe_data()
    assert (told["name"], told["rows"]) == ("first", 6)
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    assert list_set(moved).describe_data()["digest"] == told["digest"]
    (moved / "fine" / "0.png").write_bytes((moved / "fine" / "1.png").read_bytes())
    assert list_set(moved).describe_data()["digest"] != told["digest"]
    some = list_set(first, max_images=2)
    assert some.describe_data() == told  # of the set, whatever was chosen


def test_a_large_file_is_sampled(tmp_path):
    path = tmp_path / "large.tar"
    path.write_bytes(bytes(300_000))
    told = describe_data(path, [path], 1)
    path.write_bytes(bytes(299_999) + b"x")
    assert describe_data(path, [path], 1)["digest"] != told["digest"]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"kind": "control"}, "control --synthetic a --json a/evaluation/x.json"),
        (
            {"kind": "copies", "train": {"path": "t r"}, "held_out": {"path": "h"}},
            "copies --real 't r' --held-out h --synthetic a --json a/evaluation/x.json",
        ),
        (
            {"kind": "fewshot", "settings": {"real": {"path": "r"}, "test": {"path": "t"}}},
            "fewshot --real r --test t --synthetic a --json a/evaluation/x.json",
        ),
        ({"kind": "tiers", "settings": {"real": "r"}}, "all --real r --synthetic a"),
    ],
)
def test_the_command_that_measures_again(result, words):
    assert find_kind(result).write_command("x", result, "a") == f"factory evaluate {words}"
