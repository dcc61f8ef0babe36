"""A refused few-shot study prints the whole command that works; evaluate all marks and measures."""

import json
import shlex

import pytest

from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests.evaluate.test_evaluate_all import write_set
from tests.running import call, run, write_recipe

SMALL = ["--seeds", "1", "--steps", "4", "--size", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Real sets, and a run of variations that a classifier of all their labels filtered."""
    folder = tmp_path_factory.mktemp("few")
    write_set(folder / "train", 12, 0)
    write_set(folder / "test", 8, 50)
    train_classifier(
        folder / "train", folder / "mine", ClassifierSettings(encoder="color-texture", force=True)
    )
    block = {"kind": "reference", "images": str(folder / "train"), "shots": 2, "per_class": 4}
    judge = {"kind": "classifier", "model": str(folder / "mine"), "min_probability": 0.0}
    run(write_recipe(folder, conditions=[block], filters=[judge]), folder / "run")
    return folder


@pytest.mark.stranger
def test_the_refusal_prints_the_command_that_works(place):
    sets = ["--real", place / "train", "--test", place / "test", "--synthetic", place / "run"]
    own = ["--encoder", "color-texture", "--filter-encoder", "color-texture", "--shots", "2"]
    out = ["--out", place / "study", "--json", place / "fewshot.json"]
    refused = call("evaluate", "fewshot", *sets, *own, *SMALL, *out)
    assert refused.exit_code == 2
    assert "LABELS SEEN" in refused.output and "OTHER SHOTS" in refused.output
    [line] = [line for line in refused.output.splitlines() if line.startswith("this works: ")]
    words = shlex.split(line.removeprefix("this works: "))
    assert words[:3] == ["factory", "evaluate", "fewshot"]
    assert "--fit-filter" in words and str(place / "run" / "recipe.json") in words
    told = call(*words[1:])
    assert told.exit_code == 0, told.output
    result = json.loads((place / "fewshot.json").read_text())
    assert {mark for arm in result["marks"].values() for mark in arm} <= {"CIRCULAR"}
    assert [each["name"] for each in result["data"]]
    marked = call("evaluate", "fewshot", *sets, *own, *SMALL, "--mark-leaks")
    assert marked.exit_code == 0, marked.output
    assert "real+synthetic [LABELS SEEN] [OTHER SHOTS]" in marked.output.replace(
        "[OTHER SHOTS] [LABELS SEEN]", "[LABELS SEEN] [OTHER SHOTS]"
    )


def test_test_images_among_the_synthetic_ones_are_never_only_marked(place):
    sets = ["--real", place / "train", "--test", place / "test", "--synthetic", place / "test"]
    told = call("evaluate", "fewshot", *sets, "--shots", "2", *SMALL, "--mark-leaks")
    assert told.exit_code == 2
    assert "TEST LEAK" in told.output
    assert "this works" not in told.output


@pytest.mark.slow("test_the_refusal_prints_the_command_that_works")
@pytest.mark.stranger
def test_evaluate_all_measures_the_diagnostic_tier_and_marks_it(place):
    sets = ["--real", place / "train", "--test", place / "test", "--synthetic", place / "run"]
    more = ["--encoder", "color-texture", "--fewshot-encoder", "color-texture", "--shots", "2"]
    told = call("evaluate", "all", *sets, *more, *SMALL)
    assert told.exit_code == 0, told.output
    tier = json.loads((place / "run" / "evaluation" / "tiers.json").read_text())["tiers"]
    measured = tier["diagnostic utility"]
    assert measured
    assert all({"LABELS SEEN", "OTHER SHOTS"} <= set(each["marks"]) for each in measured.values())
    card = (place / "run" / "README.md").read_text()
    assert "**real+synthetic: LABELS SEEN**" in card
