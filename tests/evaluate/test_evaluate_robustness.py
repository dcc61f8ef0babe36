"""Robustness over families: what is varied moves above the floor, what is not stays below it."""

import numpy as np
import pytest

import factory
from factory.core.errors import InputError
from factory.evaluate.image_sets import list_set
from factory.evaluate.robustness import Robustness
from factory.evaluate.robustness.study import compare_values, find_families
from tests.running import ask, read_json, run, write_recipe

VALUES = ("low", "high")


def test_a_shift_is_found_and_chance_is_not():
    draw = np.random.default_rng(3)
    between = draw.normal(0, 3, (40, 1))
    numbers = between + draw.normal(0, 0.3, (40, 3)) + [0.0, 0.5, 1.0]
    found = compare_values(numbers, ("a", "b", "c"), 1)
    assert found["spread"] > 3 * found["floor"] and found["p"] < 0.001
    assert found["shift"]["low"] > 0
    assert found["shift"]["mean"] == pytest.approx(
        (numbers[:, -1] - numbers[:, 0]).mean() / numbers.std(axis=0, ddof=1).mean()
    )
    nothing = [
        compare_values(between + draw.normal(0, 0.3, (40, 3)), "abc", seed)["p"] < 0.05
        for seed in range(40)
    ]
    assert sum(nothing) <= 6  # 2 are expected; more than 6 have a chance of 0.3 %


def test_families_with_nan_are_left_out():
    numbers = np.tile([[0.0, 1.0]], (8, 1)) + np.arange(8)[:, None]
    numbers[0, 1] = np.nan
    assert compare_values(numbers, VALUES, 0)["families"] == 7
    numbers[:5] = np.nan
    assert compare_values(numbers, VALUES, 0)["shift"]["mean"] is None


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    block = {"kind": "caption", "captions": "he-attributes-2", "count": 6}
    block["vary"] = {"eosin": ["pale", "strong"], "scale": [1.0, 0.25]}
    asked = {"conditions": [block], "budget": {"attempts": 1}, "filters": []}
    run(write_recipe(folder, **asked), folder / "out")
    return folder / "out"


def test_families_are_measured_in_the_pixels(families):
    found = factory.run_evaluation("robustness", {"synthetic": families})
    assert [*found["varied"]] == ["eosin", "scale"]
    assert found["varied"]["scale"]["values"] == ["0.25", "1"]  # numbers rise
    assert found["varied"]["eosin"]["asked"] == "eosin"
    assert found["varied"]["eosin"]["families"] == 6
    lines = Robustness.write_lines(found)
    assert any(line.startswith("eosin") and "ASKED" in line for line in lines)


@pytest.mark.slow("test_families_are_measured_in_the_pixels")
def test_command_card_and_plot(families):
    out = families / "evaluation"
    words = ("--synthetic", families, "--classifier", "pcam", "--out", out / "robustness")
    told = ask("evaluate", "robustness", *words, "--json", out / "robustness.json")
    assert "eosin ASKED" in told and "another class within" in told
    found = read_json(out / "robustness.json")
    assert "pcam: tumor" in found["varied"]["eosin"]["measures"]
    assert (out / "robustness/response.svg").read_bytes().startswith(b"<svg")
    ask("card", families)
    assert "robustness" in (families / "README.md").read_text().lower()


def test_sets_without_families_are_refused(families, tmp_path):
    run(write_recipe(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match="no row is of a family"):
        find_families(list_set(tmp_path / "out"))
