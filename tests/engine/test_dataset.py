"""What a folder of factory is: run or copy, whole or not, as it was made or refiltered."""

import json
import shutil

import pytest

from factory.core.errors import InputError
from factory.data.folders import FolderKind
from factory.engine.dataset import Dataset
from factory.evaluate.fewshot.synthetic import Origin, read_origin
from tests import ROOT

OLD = ROOT / "tests" / "contracts" / "v0.1"


@pytest.mark.parametrize("name", ["run", "published"])
def test_a_run_and_its_copy_are_one_data_set(name):
    dataset = Dataset(str(OLD / name))
    assert dataset.unfinished == ""
    assert not dataset.is_refiltered
    assert dataset.kind is (FolderKind.RUN if name == "run" else FolderKind.COPY)
    recipe, summary = dataset.require_finished()
    assert dataset.in_force == recipe
    files = dataset.measure_files()
    assert {file.name: file.sha256 for file in files}.items() <= summary.hashes.items()
    assert sum(file.rows for file in files if file.folder == "data") == summary.accepted


def test_a_run_whose_shard_went_is_unfinished(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    for path in (tmp_path / "run" / ".factory" / "shards").glob("*-r[0-9].json"):
        path.unlink()
    assert Dataset(str(tmp_path / "run")).unfinished == "3 shards are missing"
    (tmp_path / "run" / "summary.json").unlink()
    dataset = Dataset(str(tmp_path / "run"))
    assert "no summary.json" in dataset.unfinished
    with pytest.raises(InputError, match="holds no finalized run"):
        dataset.require_finished()


def test_a_refiltered_run_is_told_from_the_run_that_has_grown(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    recipe = json.loads(path.read_text())
    path.write_text(json.dumps({**recipe, "accept": "tissue"}))
    dataset = Dataset(str(tmp_path / "run"))
    assert dataset.is_refiltered
    assert dataset.in_force.accept == "tissue"
    path.write_text(
        json.dumps({**recipe, "accept": "tissue", "conditions": recipe["conditions"][:1]})
    )
    grown = Dataset(str(tmp_path / "run"))
    assert grown.in_force == grown.made_with
    assert not grown.is_refiltered


def test_an_evaluation_knows_of_a_copy_what_it_knows_of_the_run():
    run, copy = (read_origin(OLD / name) for name in ("run", "published"))
    assert run == copy
    assert run.is_run and run.models == ("fake",)
    assert read_origin(OLD) == Origin()
