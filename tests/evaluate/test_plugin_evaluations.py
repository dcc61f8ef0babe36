"""An evaluation of one's own, installed as a package: one file, and every command knows it."""

import json
import sys
from importlib import invalidate_caches

import numpy as np
import pytest
from PIL import Image

from factory.core.registry import Registry
from factory.evaluate.base import Evaluation
from tests import ROOT
from tests.evaluate.test_evaluate_all import write_set
from tests.plugged import PLUGINS, install, run_python
from tests.running import read_json, run, write_recipe

USE = """
import sys
from click.testing import CliRunner
from factory.cli import main
sys.path.insert(0, sys.argv[1])
from tests.documents import load_hook
from tests.plugged import call

sets = ("--real", "real", "--synthetic", "run")
told = " ".join(call("evaluate", "--help").split())
assert " colour Compares the colours of synthetic images" in told, told
assert "--halves INTEGER RANGE" in call("evaluate", "colour", "--help")
call("evaluate", "colour", *sets, "--halves", "0", code=2)
told = call("evaluate", "colour", *sets, "--json", "run/evaluation/colour.json")
assert "colours of fine" in told and "distance of real halves" in told, told
call("report", "run", "--out", "alone.html")
call("card", "run")

all_of = ("--real", "real", "--test", "real", "--synthetic", "run", "--size", "32", "--skip")
all_of += ("fewshot", "--skip", "copies", "--encoder", "color-texture", "--force")
told = call("evaluate", "all", *all_of, code=1)
assert "  colour: Compares the colours" in told and "== colour" in told, told
broken = "'broken' is broken (package factory-colour 0.3, entry point factory.evaluations"
assert f"not measured: broken: {broken}" in told, told
call("evaluate", "all", *all_of, "--skip", "broken")
call("report", "run")
assert "BROKEN PLUG-IN" in call("evaluate", "--help")
told = call("evaluate", "broken", *sets, code=2)
assert broken in told and "No module named 'not_there'" in told, told
reference = load_hook().WRITERS["commands"]()
assert "### factory evaluate colour" in reference and "`--halves`" in reference
"""


@pytest.mark.slow(
    "evaluate/test_evaluate_all.py::test_a_plug_in_that_fails_leaves_the_others_their_table"
)
def test_an_installed_evaluation_is_known_to_every_command(tmp_path):
    install("colour", tmp_path / "site", {"factory.evaluations": {"broken": "not_there:Broken"}})
    write_set(tmp_path / "real", 12, 0)
    conditions = [{"kind": "class", "per_class": {"coarse": 3, "fine": 3}}]
    run(write_recipe(tmp_path, conditions=conditions), tmp_path / "run")
    run_python(tmp_path / "site", "-c", USE, str(ROOT), folder=tmp_path)
    result = read_json(tmp_path / "run" / "evaluation" / "colour.json")
    assert (result["kind"], result["version"]) == ("colour", 1)
    for found in result["classes"].values():
        assert found["distance"]["value"] > found["floor"]["high"] > found["floor"]["low"] > 0
    table = read_json(tmp_path / "run" / "evaluation" / "tiers.json")
    assert table["version"] == 1
    shown = table["tiers"]["pixel fidelity"]["distance in levels, colour, fine"]
    assert shown["value"] == result["classes"]["fine"]["distance"]["value"]
    alone, together = (tmp_path / "alone.html").read_text(), tmp_path / "run" / "report.html"
    for text in ((tmp_path / "run" / "README.md").read_text(), alone, together.read_text()):
        assert "distance in levels" in text
    assert "### colour" in (tmp_path / "run" / "README.md").read_text()


HOLLOW = """
from typing import Literal
from factory.evaluate.base import Evaluation, EvaluationSettings

class Hollow(Evaluation):
    class Settings(EvaluationSettings):
        kind: Literal["hollow"] = "hollow"
"""


def test_a_package_that_measures_nothing_is_named_as_soon_as_it_is_found(tmp_path, monkeypatch):
    made = tmp_path / "hollow-1.2.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: hollow\nVersion: 1.2\n")
    (made / "entry_points.txt").write_text("[factory.hollows]\nhollow = hollow:Hollow\n")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "__init__.py").write_text(HOLLOW)
    monkeypatch.syspath_prepend(tmp_path)
    _, broken = Registry("factory.hollows", Evaluation, {}).list_all()
    said = "Hollow: has no measure: write one, or a module hollow.study with it"
    assert "package hollow 1.2" in str(broken["hollow"]) and said in str(broken["hollow"])
    (tmp_path / "hollow" / "study.py").write_text("def measure(settings, context): ...\n")
    monkeypatch.delitem(sys.modules, "hollow", raising=False)
    invalidate_caches()
    assert Registry("factory.hollows", Evaluation, {}).get("hollow").study == "hollow.study:measure"


@pytest.fixture
def colour(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS / "colour")
    from factory_colour import Colour, count_levels, measure_distance

    return Colour, count_levels, measure_distance


def test_the_distance_is_that_by_which_a_set_is_brighter(colour, tmp_path):
    from factory.evaluate.image_sets import list_set

    _, count_levels, measure_distance = colour
    for name, shift in (("one", 0), ("other", 7)):
        (tmp_path / name / "a").mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 200, (16, 16, 3)) + shift
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / "a" / "0.png")
    one, other = (count_levels(list_set(tmp_path / name)) for name in ("one", "other"))
    assert measure_distance(one, other) == pytest.approx(7)
    assert measure_distance(one, one) == 0


def test_results_without_a_version_stay_readable_and_newer_ones_are_refused(tmp_path):
    from factory.core.errors import InputError
    from factory.engine.dataset import Dataset
    from factory.publish.card.facts import read_evaluations

    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "copies.json").write_text(json.dumps({"authpct": {"synthetic": {"value": 1.5}}}))
    found = read_evaluations(Dataset(str(tmp_path / "run")))
    assert found == {"copies": {"authpct": {"synthetic": {"value": 1.5}}}}
    (folder / "copies.json").write_text(json.dumps({"kind": "copies", "version": 99}))
    with pytest.raises(InputError, match="version 99 of this file is newer"):
        read_evaluations(Dataset(str(tmp_path / "run")))
