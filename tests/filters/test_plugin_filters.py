"""A filter of one's own, in one file: as an installed package, and named by a recipe."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.core.errors import PluginError, RecipeError
from factory.data.records import Condition, Sample
from factory.engine.continuing import build_record
from factory.engine.dataset import Dataset
from factory.engine.run import plan_recipe
from factory.engine.run_folder import RunFolder
from factory.evaluate.calibrate.scored import Scored
from factory.evaluate.calibrate.thresholds import Decider, propose_threshold
from factory.filters import build_filters, decide_all, score_all
from factory.models.session import Session
from factory.publish.card.funnel import describe_unjudged
from factory.recipe.file import load_recipe
from factory.recipe.recipe import compute_recipe_digest, restore_recipe
from tests import ROOT
from tests.plugged import PLUGINS, install, run_python
from tests.running import call, list_identities, read_json, read_rows, run, write_recipe

SOURCE = PLUGINS / "saturation" / "factory_saturation.py"
OWN = {"kind": "python", "path": "own.py", "class_name": "Saturation", "min_saturation": 0.2}

USE = """
import json, sys
from pathlib import Path
from click.testing import CliRunner
from factory.cli import main
sys.path.insert(0, sys.argv[1])
from tests.documents import load_hook
from tests.plugged import call

call("validate", "recipe.yaml")
schema = json.loads(call("schema"))
assert schema["$defs"]["Saturation"]["properties"]["min_saturation"]["default"] == 0.1
call("run", "recipe.yaml", "--out", "run")
call("report", "run")
call("card", "run")
assert "## saturation" in load_hook().WRITERS["filters"]()
said = call("validate", "broken.yaml", code=2)
assert "broken.yaml:" in said and "'broken' is broken (package factory-saturation 0.3" in said, said
assert "No module named 'not_there'" in said, said
assert "min_saturation: must be <= 1, got 2.0" in call("validate", "wrong.yaml", code=2)
"""


def test_an_installed_filter_is_known_to_every_command(tmp_path):
    install("saturation", tmp_path / "site", {"factory.filters": {"broken": "not_there:Broken"}})
    listed = [{"kind": "saturation", "min_saturation": 0.2}, {"kind": "finite"}]
    conditions = [{"kind": "class", "per_class": {"normal": 3}}]
    write_recipe(tmp_path, filters=listed, conditions=conditions)
    for name, kinds in (
        ("broken", [{"kind": "broken"}]),
        ("wrong", [{"kind": "saturation", "min_saturation": 2.0}]),
    ):
        write_recipe(tmp_path / name, filters=kinds).rename(tmp_path / f"{name}.yaml")
    run_python(tmp_path / "site", "-c", USE, str(ROOT), folder=tmp_path)
    rows = read_rows(tmp_path / "run") + read_rows(tmp_path / "run", "rejected")
    assert all(row["scores"]["mean_saturation"] > 0 for row in rows)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["filters"][0] == {"kind": "saturation", "min_saturation": 0.2}
    for page in ("report.html", "README.md"):
        text = (tmp_path / "run" / page).read_text()
        assert "saturation" in text and "min_saturation" in text, page


@pytest.fixture
def recipe(tmp_path):
    shutil.copy(SOURCE, tmp_path / "own.py")
    conditions = [{"kind": "class", "per_class": {"normal": 3}}]
    return write_recipe(tmp_path, filters=[OWN], conditions=conditions, accept="Saturation")


def test_a_file_of_ones_own_scores_decides_and_is_recorded(recipe, tmp_path):
    result = run(recipe, tmp_path / "run")
    digest = load_recipe(recipe).recipe.filters[0].source_sha256
    told = {"kind": "Saturation", "min_saturation": 0.2, "path": "own.py", "source_sha256": digest}
    assert result.summary.filters == (told,)
    row = read_rows(tmp_path / "run")[0]
    (told,) = json.loads(row["provenance"])["filters"]
    assert (told["kind"], told["source_sha256"]) == ("Saturation", digest)
    assert row["scores"]["mean_saturation"] >= 0.2
    (tmp_path / "own.py").unlink()  # what is recorded decides without the file
    words = ("refilter", str(tmp_path / "run"), "--set", "filters.Saturation.min_saturation=0.99")
    for wrong in ("min_saturatoin=0.9", "min_saturation=high"):
        refused = call(*words[:3], f"filters.Saturation.{wrong}")
        assert refused.exit_code == 2
        assert "write a number for a threshold (min_saturation)" in refused.output
    assert call(*words).exit_code == 1
    rejected = read_rows(tmp_path / "run", "rejected")
    assert {each["rejected_by"] for each in rejected} == {"Saturation"}


@pytest.mark.parametrize(
    ("before", "after"),
    [('at_least="min_saturation"', 'at_least="min_satturation"'),
     ('at_least="min_saturation"', 'at_most="min_saturation"')],
)  # fmt: skip
def test_a_threshold_that_is_no_setting_or_points_the_other_way_is_refused(before, after, recipe):
    own = recipe.parent / "own.py"
    own.write_text(own.read_text().replace(before, after))
    with pytest.raises(RecipeError, match=r"score mean_saturation: 'min_sat.* must be a field of"):
        load_recipe(recipe)


def test_a_run_of_a_recipe_that_moved_goes_on_after_a_kill(recipe, tmp_path):
    """The record of the run names the file's new place already, recipe.json still the old one."""
    before = list_identities(run(recipe, tmp_path / "run") and tmp_path / "run")
    shutil.copytree(recipe.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("run"))
    moved = tmp_path / "moved" / recipe.name
    loaded = load_recipe(moved)
    RunFolder(str(tmp_path / "run")).write_run(build_record(loaded.recipe, plan_recipe(loaded)))
    assert not Dataset(str(tmp_path / "run")).is_refiltered
    assert run(moved, tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") == before


def test_another_source_is_another_recipe(recipe, tmp_path):
    before = compute_recipe_digest(load_recipe(recipe).recipe)
    shutil.copytree(recipe.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / recipe.name
    assert compute_recipe_digest(load_recipe(moved).recipe) == before, "where it lies is no matter"
    with (recipe.parent / "own.py").open("a") as file:
        file.write("# changed\n")
    after = load_recipe(recipe).recipe
    assert compute_recipe_digest(after) != before
    wanted = f"filters.python.source_sha256='{'0' * 64}'"
    with pytest.raises(RecipeError, match=r"filters\[0\].*was changed: source_sha256 is 0000"):
        load_recipe(recipe, [wanted])


def test_what_is_recorded_never_runs_the_file(recipe, monkeypatch):
    loaded = load_recipe(recipe)
    (recipe.parent / "own.py").write_text("raise SystemExit('ran')")
    recorded = restore_recipe(loaded.recipe.model_dump(mode="json"))
    judges = build_filters(recorded.filters, Session.open(recipe.parent))
    assert judges[0].encoders == judges[0].classifiers == judges[0].real_images == ()
    assert decide_all(judges, {"mean_saturation": 0.3}).accepted
    assert decide_all(judges, {"mean_saturation": 0.1}).reason == "mean_saturation 0.1 < 0.2"
    with pytest.raises(PluginError, match="runs only where a recipe file names it"):
        score_all(judges, [Sample(np.zeros((8, 8, 3), np.uint8))], [Condition()])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "missing.py"}, r"filters\[0\]: .*missing\.py: cannot be read"),
        ({"class_name": "Saturatoin"}, "has no class 'Saturatoin': did you mean 'Saturation'"),
        ({"min_saturation": 2.0}, r"filters\[0\]\.min_saturation: must be <= 1, got 2\.0"),
        ({"min_satturation": 0.2}, r"filters\[0\]\.min_satturation: unknown field, got 0\.2: did"),
    ],
)
def test_what_is_wrong_with_a_file_of_ones_own_is_told_with_its_line(recipe, changes, said):
    for name, value in changes.items():
        with pytest.raises(RecipeError, match=said):
            load_recipe(recipe, ["accept=null", f"filters.python.{name}={json.dumps(value)}"])


def save_real(folder: Path) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")


CLASSY = """
from pathlib import Path
from typing import Literal
import numpy as np
from pydantic import Field
from factory.data.images import SourceImage
from factory.filters.base import Filter, FilterSettings, Near, RealImages, Score

class Dots(Filter):
    kind = "dots"
    scores = (Score("dots", at_least="min_dots"), Score("alikeness", at_most="max_alikeness"))
    needs_class = needs_caption = True
    likeness = "alikeness"
    nearness = "dots"

    class Settings(FilterSettings):
        kind: Literal["dots"]
        min_dots: int = Field(0, ge=0, le=20)
        max_alikeness: float = 0.9
        images: Path | None = None

    @property
    def real_images(self):
        path = self.settings.images
        return () if path is None else (RealImages("images", self.context.resolve(path)),)

    def score(self, samples, conditions):
        dots = [float(each.pixels[0, 0, 0] % 15) for each in samples]
        return {"dots": dots, "alikeness": [0.5] * len(samples)}

    def find_nearest(self, pixels):
        return Near(self.real_images[0].list()[0], "crop", 0.25)

    def describe(self):
        return {**super().describe(), "images_sha256": "ab" * 32}
"""
DOTS = {"kind": "python", "path": "own.py", "class_name": "Dots"}


def test_what_a_class_of_ones_own_declares_is_checked_and_told_as_of_any_filter(tmp_path):
    (tmp_path / "own.py").write_text(CLASSY)
    save_real(tmp_path / "real")
    dots = {**DOTS, "images": "real", "max_alikeness": 0.8}
    captions = [{"kind": "caption", "captions": "he-attributes", "count": 2}]
    recipe = write_recipe(tmp_path, filters=[dots], conditions=captions)
    said = call("validate", recipe).output
    assert "no condition has a class, so that filter Dots judges nothing" in said
    result = run(recipe, tmp_path / "run")
    assert result.summary.filters[0]["needs_class"] is True
    (unjudged,) = describe_unjudged(result.summary)
    assert "has no class, so that Dots judged none of its 2" in unjudged
    card = (tmp_path / "run" / "README.md").read_text()
    assert "filter `Dots` rejected 0 of 4 candidates whose similarity was above 0.8" in card
    assert f"checked against the set `real` (sha256 {'ab' * 32}) only" in card
    (tmp_path / "own.py").unlink()  # a report of a run never asks for the file
    assert call("report", tmp_path / "run").exit_code == 0
    assert "NOT JUDGED" in call("refilter", tmp_path / "run").output


def test_what_a_class_declares_counts_by_its_source_alone(tmp_path):
    (tmp_path / "own.py").write_text(CLASSY)
    recipe = load_recipe(write_recipe(tmp_path, filters=[DOTS])).recipe
    bare = recipe.filters[0].model_copy(update={"declared": None})  # as older versions recorded it
    older = recipe.model_copy(update={"filters": (bare,)})
    assert recipe.filters[0].declared
    assert compute_recipe_digest(older) == compute_recipe_digest(recipe)


def test_a_class_of_ones_own_that_needs_a_caption_is_not_asked_of_images_without(tmp_path):
    (tmp_path / "own.py").write_text(CLASSY)
    save_real(tmp_path / "real")
    write_recipe(tmp_path, filters=[DOTS])
    words = ("judge", "--data", str(tmp_path / "real"), "--recipe", str(tmp_path / "recipe.yaml"))
    said = call(*words, "--out", str(tmp_path / "out")).output
    assert "no image has a caption, which filter Dots needs" in said
    assert "no image has a class, which filter Dots needs" in said


def test_thresholds_of_a_class_of_ones_own_are_proposed_as_its_settings_hold_them(tmp_path):
    (tmp_path / "own.py").write_text(CLASSY)
    settings = load_recipe(write_recipe(tmp_path, filters=[DOTS])).recipe.filters
    decider = Decider(settings, Session.open(tmp_path), None)
    bound = next(each for each in decider.bounds if each.name == "min_dots")
    scores = [{"dots": float(number), "alikeness": 0.5} for number in range(12, 15)]
    rows = [Scored("train", str(row), "-", None, each) for row, each in enumerate(scores)]
    assert repr(propose_threshold(decider, rows, bound, 1.0)) == "12"
    assert not decider.allows(bound, 12.5) and not decider.allows(bound, 21)
