"""Robustness over families: what is varied moves above the floor, what is not stays below it."""

import numpy as np
import pytest

import factory
from factory.core.errors import InputError
from factory.evaluate.image_sets import list_set
from factory.evaluate.robustness import Robustness
from factory.evaluate.robustness.measures import ATTRIBUTES, COLOUR, list_own
from factory.evaluate.robustness.study import compare_values, find_families
from factory.evaluate.robustness.verdict import judge_alone
from tests import ASSETS
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


def test_what_is_the_same_everywhere_is_no_test():
    found = compare_values(np.full((8, 2), 3.0), VALUES, 0)
    assert not found["tested"] and found["p"] == 1.0 and found["spread"] == 0.0
    assert compare_values(np.arange(16.0).reshape(8, 2), VALUES, 0)["tested"]


def tell(low, high, noise, moves=False):
    ends = {"mean": (low + high) / 2, "low": low, "high": high}
    return {"families": 9, "spread_interval": ends, "noise": noise, "moves": moves}


def test_others_move_stay_or_are_undecided_beside_the_noise():
    still = dict.fromkeys(ATTRIBUTES, tell(0.0, 0.4, 0.5))
    own = list_own("stain", None, ("stain",))
    assert judge_alone(still, own, True)["answer"] == "yes"
    # above the noise, and more than chance: moves; else it may be either
    one = {**still, "normalised tissue": tell(0.6, 0.9, 0.5, moves=True)}
    assert judge_alone(one, own, True)["moving"] == ["normalised tissue"]
    assert judge_alone(one, own, True)["answer"] == "no"
    other = {**still, "normalised tissue": tell(0.6, 0.9, 0.5)}
    assert judge_alone(other, own, True)["answer"] == "undecided"
    # what reads the stain says nothing where the stain varies, and much where it does not
    dense = {**still, "nuclear_density": tell(0.6, 0.9, 0.5, moves=True)}
    assert judge_alone(dense, own, True)["answer"] == "yes"
    assert judge_alone(dense, list_own("eosin", "eosin", ("stain",)), False)["answer"] == "no"
    assert "nuclear_density" in list_own("density", "nuclear_density", ("stain",))


@pytest.fixture(scope="module")
def stains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stains")
    made = {"kind": "reference", "images": str(ASSETS / "pcam" / "train"), "strength": 0.01}
    made |= {"per_class": 5, "vary": {"stain": ["he-slides/cmu-1", "he-slides/brecahad"]}}
    size = {"model": "fake", "width": 64, "height": 64, "batch_size": 4}
    asked = {"conditions": [made], "budget": {"attempts": 1}, "filters": [], "generator": size}
    run(write_recipe(folder, **asked), folder / "out")
    return folder / "out"


def test_of_families_of_stain_structure_stays_and_words_say_so(stains):
    found = factory.run_evaluation("robustness", {"synthetic": stains})
    one = found["varied"]["stain"]
    assert set(one["own"]) == set(COLOUR)
    assert one["measures"]["stain_l"]["moves"]
    assert one["structure"]["haematoxylin"]["low"] > 0.9
    assert one["alone"]["moving"] == []
    constant = [name for name, each in one["measures"].items() if not each["tested"]]
    assert found["settings"]["tests"] == len(one["measures"]) - len(constant)
    lines = Robustness.write_lines(found)
    assert any(line.startswith("stain: ") and "varied attribute" in line for line in lines)
    assert any("structure of the first image" in line for line in lines)


def test_results_of_older_versions_are_still_shown(families):
    found = factory.run_evaluation("robustness", {"synthetic": families})
    for one in found["varied"].values():
        for name in ("own", "alone", "structure", "kept_by_jpeg"):
            del one[name]
        for each in one["measures"].values():
            for name in ("noise", "spread_interval", "tested"):
                del each[name]
    lines = Robustness.write_lines(found)
    assert any(line.startswith("eosin") and "ASKED" in line for line in lines)
    assert list(Robustness.list_rows(found))


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    block = {"kind": "caption", "captions": "he-attributes-2", "count": 5}
    block["vary"] = {"eosin": ["pale", "strong"], "scale": [1.0, 0.25]}
    asked = {"conditions": [block], "budget": {"attempts": 1}, "filters": []}
    run(write_recipe(folder, **asked), folder / "out")
    return folder / "out"


def test_families_are_measured_in_the_pixels(families):
    found = factory.run_evaluation("robustness", {"synthetic": families})
    assert [*found["varied"]] == ["eosin", "scale"]
    assert found["varied"]["scale"]["values"] == ["0.25", "1"]  # numbers rise
    assert found["varied"]["eosin"]["asked"] == "eosin"
    assert found["varied"]["eosin"]["families"] == 5
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
