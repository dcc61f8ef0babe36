"""Recipes that ship, by name, and paths of `--set` from where one stands."""

import json
from pathlib import Path

import pytest
import yaml

from factory.core.errors import InputError, RecipeError
from factory.core.yaml.model import apply_overrides
from factory.core.yaml.reader import read_document
from factory.recipe.file import find_base, find_shipped, list_shipped, load_recipe
from factory.recipe.shipped import read_purpose
from tests import ROOT
from tests.cli.test_cli import call
from tests.running import read_json, write_recipe

RECIPES = ROOT / "recipes"
FEW = ("--set", "conditions=[{kind: class, per_class: {normal: 2}}]", "--set", "budget.attempts=9")


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.stranger
def test_a_recipe_by_name_runs_where_one_stands(here):
    result = call("run", "dry-run", *FEW)
    assert result.exit_code == 0, result.output
    assert read_json(here / "runs" / "dry-run" / "summary.json")["accepted"] == 2
    assert "already complete" in call("run", "dry-run", *FEW).output
    assert not (RECIPES / "runs" / "dry-run").exists()


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_every_name_is_taken_wherever_a_recipe_is(command, here):
    options = () if command == "validate" else ("--no-calibrate",)
    result = call(command, "quickstart", *options)
    assert result.exit_code == 0, result.output
    assert list_shipped() == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert len(list_shipped()) > 10


def test_a_file_of_that_name_comes_first(here):
    (here / "quickstart").write_text("nam: x\n")
    result = call("validate", "quickstart")
    assert result.exit_code == 2
    assert "quickstart:1" in result.stderr
    (here / "quickstart").unlink()
    (here / "quickstart").mkdir()  # e.g. of a run
    assert call("validate", "quickstart").exit_code == 0


@pytest.mark.stranger
def test_a_misspelt_name_is_suggested(here):
    for name in ("quikstart", "Quickstart", "quick"):
        result = call("run", name)
        assert result.exit_code == 2
        assert "did you mean 'quickstart'?" in result.stderr
    assert "no such file" in call("run", "quickstart.yaml").stderr
    assert "no such file" in call("run", "there/quickstart").stderr
    assert list(here.iterdir()) == []


def test_recipes_are_listed_and_shown(here):
    text = call("recipes", "list").stdout
    found = json.loads(call("recipes", "list", "--json").stdout)
    assert [each["name"] for each in found] == list_shipped()
    for each in found:
        assert f"{each['name']:22} {each['purpose']}" in text
        shown = call("recipes", "show", each["name"])
        assert shown.stdout == (RECIPES / f"{each['name']}.yaml").read_text()
    assert call("recipes", "show", "nothing").exit_code == 2


@pytest.mark.stranger
@pytest.mark.parametrize("dest", [None, "mine.yaml", "new/mine.yaml", "folder", "new-folder"])
def test_a_copy_says_the_same_and_overwrites_nothing(dest, here):
    (here / "folder").mkdir()
    for name in list_shipped():
        target = here / (f"{name}-{dest}" if dest == "mine.yaml" else dest or f"{name}.yaml")
        arguments = ("recipes", "copy", name, *((target,) if dest else ()))
        if dest == "new/mine.yaml":
            target = here / "new" / f"{name}.yaml"
            arguments = ("recipes", "copy", name, target)
        result = call(*arguments)
        assert result.exit_code == 0, result.output
        file = target if target.suffix else target / f"{name}.yaml"
        assert yaml.safe_load(file.read_text()) == yaml.safe_load(find_shipped(name).read_text())
        assert "yaml-language-server" not in file.read_text()
        again = call(*arguments)
        assert again.exit_code == 2
        assert "is there already" in again.stderr
        assert load_recipe(file).base == file.parent


def test_relative_paths_start_here_only_for_recipes_by_name(here):
    assert find_base(find_shipped("quickstart")) == Path()
    assert find_base(Path("recipes/quickstart.yaml")) == Path("recipes")
    with pytest.raises(InputError, match="no recipe of this name"):
        find_shipped("../quickstart")


# --- paths given by --set ------------------------------------------------------------------------


@pytest.fixture
def document(here):
    """A recipe in a folder beside the one where one stands."""
    (here / "classifiers" / "mine").mkdir(parents=True)
    (here / "PATCHES").mkdir()
    (here / "nano-he").mkdir()
    return read_document(write_recipe(here.parent / "recipes"))


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("field", "text"),
    [("filters.1.model", "classifiers/mine"), ("filters.1.model", "./classifiers/mine"),
     ("conditions.0.images", "PATCHES"), ("catalogs", "[classifiers/mine]")],
)  # fmt: skip
def test_a_path_by_set_is_found_from_here(field, text, document, here):
    data = apply_overrides(document, [f"{field}={text}"]).data
    value = data["catalogs"][0] if field == "catalogs" else None
    if value is None:
        section, _, key = field.split(".")
        value = data[section][0 if section == "conditions" else 1][key]
    assert value == str(here / text.strip("[]"))


def test_a_path_that_the_recipes_folder_has_stays_as_written(document, here):
    (here.parent / "recipes" / "classifiers" / "mine").mkdir(parents=True)
    data = apply_overrides(document, ["filters.1.model=classifiers/mine"]).data
    assert data["filters"][1]["model"] == "classifiers/mine"


@pytest.mark.parametrize("text", ["nano-he", "owner/name", "x" * 5000, "a/" + "x" * 5000, "text"])
def test_ids_stay_ids(text, document):
    assert apply_overrides(document, [f"generator.model={text}"]).data["generator"]["model"] == text


def test_a_path_that_is_nowhere_is_still_refused(document):
    with pytest.raises(RecipeError):
        load_recipe(Path(document.file), ["generator.model=[]"])


def test_a_recipe_tells_its_purpose_in_a_sentence(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("# yaml-language-server: $schema=x\n# Does this: and that.\nname: x\n")
    assert read_purpose(path) == "Does this."
