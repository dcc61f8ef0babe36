"""What earlier versions wrote stays readable, goes on, and is not written anew without need."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from factory.cli import main
from factory.core.hashing import compute_digest
from factory.recipe.earlier import split_duplicates
from factory.recipe.recipe import restore_recipe, select_content
from tests import ROOT
from tests.running import list_identities, read_json, read_rows

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*"))
REFERENCES = HERE.parent / "assets" / "pcam" / "train"


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path):
    """A copy of what a version wrote, with the real images where its recipe looks for them."""
    folder = tmp_path / "tests" / "contracts" / request.param
    shutil.copytree(HERE / request.param, folder)
    shutil.copytree(REFERENCES, tmp_path / "tests" / "assets" / "pcam" / "train")
    return folder


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout


def read_files(folder):
    """Returns name -> bytes of all files; the card and its companions are written with each run."""
    cards = {"README.md", "CITATION.cff", "croissant.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in cards and path.suffix != ".png"
    }


def put_in_words_of_today(files):
    """Returns files with recorded recipes and filters as this version says the same."""
    for name in {"recipe.json", ".factory/run.json", "summary.json"} & files.keys():
        data = json.loads(files[name])
        if name == "recipe.json":
            data = restore_recipe(data).model_dump(mode="json")
        elif name == "summary.json":
            data = split_duplicates(data)
        else:
            data["recipe"] = restore_recipe(data["recipe"]).model_dump(mode="json")
            data["content"] = split_duplicates(data["content"])
        files[name] = json.dumps(data, sort_keys=True).encode()
    return files


def assert_same(now, before):
    """Asserts that files are the same; a summary may tell more than it did, in another order."""
    now, before = put_in_words_of_today(now), put_in_words_of_today(before)
    summary, told = (json.loads(files.pop("summary.json")) for files in (now, before))
    assert {name: summary["files"][name] for name in told["files"]} == told.pop("files")
    assert {name: summary[name] for name in told} == told
    assert now == before


def test_there_are_versions():
    assert VERSIONS == ["v0.1"]


def test_status(old):
    status = json.loads(call("status", old / "run", "--json"))
    assert (status["shards"], status["done"], status["finalized"]) == (3, 3, True)
    parts = [(part["label"], part["filled"], part["asked"]) for part in status["series"]]
    assert parts == [
        ("normal", 3, 3),
        ("captions he-basic", 1, 2),
        ("tumor (references)", 1, 1),
    ]


@pytest.mark.parametrize("name", ["run", "published"])
def test_verify(old, name):
    words = ("verify", old / name, "--regenerate", 5, "--near-duplicates", "--json")
    report = json.loads(call(*words, "--references", REFERENCES))
    assert report["sound"]
    assert [each["status"] for each in report["regenerated"]] == ["exact"] * 5


def test_verify_where_near_duplicates_were_removed_before_another_filter(old):
    """The fingerprint is that of the order in which it was recorded."""
    recipe, summary = (read_json(old / "run" / name) for name in ("recipe.json", "summary.json"))
    recipe["filters"] = [recipe["filters"][place] for place in (0, 2, 1)]
    assert recipe["filters"][1]["kind"] == "near_duplicate"
    content = select_content(restore_recipe(recipe))
    content["filters"].insert(1, {"kind": "near_duplicate", **content.pop("dedup")})
    summary["recipe_sha256"] = compute_digest("recipe", content)
    for name, data in (("recipe.json", recipe), ("summary.json", summary)):
        (old / "run" / name).write_text(json.dumps(data))
    assert json.loads(call("verify", old / "run", "--json"))["sound"]


def test_report(old):
    numbers = json.loads(call("report", old / "run", "--base", old, "--json"))
    assert (numbers["accepted"], numbers["asked"], numbers["generated"]) == (5, 6, 12)
    assert numbers["near_duplicates"] == 5
    assert numbers["status"] == "short"
    assert "fidelity" in (old / "run" / "report.html").read_text()


def test_refilter_and_back(old):
    before = read_files(old / "run")
    words = ("refilter", old / "run", "--json")
    kept = json.loads(call(*words, "--set", "filters.near_duplicate.max_similarity=0.05", code=1))
    assert kept["accepted"] < 5
    assert json.loads(call(*words, code=1))["accepted"] == 5
    assert_same(read_files(old / "run"), before)


def test_card(old):
    call("card", old / "run")
    text = (old / "run" / "README.md").read_text()
    assert "near_duplicate" in text and "color-texture" in text
    assert (old / "run" / "assets" / "samples.png").is_file()


def test_publish(old, tmp_path):
    call("publish", old / "run", "--to", tmp_path / "again")
    assert_same(read_files(tmp_path / "again"), read_files(old / "published"))


def test_regenerate(old, tmp_path):
    for folder in ("data", "rejected"):
        row = read_rows(old / "published", folder)[-1]
        words = ("regenerate", old / "published", row["sample_id"], "--out", tmp_path / "a.webp")
        assert json.loads(call(*words, "--json", "--references", REFERENCES))["status"] == "exact"
        assert (tmp_path / "a.webp").read_bytes() == row["image"]["bytes"]


def test_run_finds_nothing_to_make_and_changes_nothing(old):
    before = read_files(old / "run")
    result = CliRunner().invoke(main, ["run", str(old / "recipe.yaml"), "--out", str(old / "run")])
    assert result.exit_code == 1, result.output
    assert "nothing left to make: 5 of 6" in result.stderr
    assert_same(read_files(old / "run"), before)


def test_run_goes_on(old):
    shutil.rmtree(old / "run" / "data")
    (old / "run" / "summary.json").unlink()
    lost = sorted((old / "run" / ".factory" / "shards").glob("*-r1.json"))[0]
    lost.unlink()
    call("run", old / "recipe.yaml", "--out", old / "run", code=1)
    assert list_identities(old / "run") == list_identities(old / "published")


def test_evaluation_of_a_published_copy(old, tmp_path):
    words = ("evaluate", "fidelity", "--real", REFERENCES.parent / "test", "--encoder")
    words += ("color-texture", "--force", "--synthetic", old / "published", "--json")
    call(*words, tmp_path / "fidelity.json")
    now = read_json(tmp_path / "fidelity.json")
    before = read_json(old / "run" / "evaluation" / "fidelity.json")
    assert now["data"][0]["digest"] == before["data"][0]["digest"]
    assert now["figures"][0]["metrics"] == before["figures"][0]["metrics"]


@pytest.mark.slow("test_regenerate")
def test_quickstart_makes_the_same_images(tmp_path):
    said = read_json(HERE / "v0.1" / "quickstart.json")
    here = {name: version(name) for name in said["libraries"]}
    if here != said["libraries"]:
        pytest.skip(f"made with {said['libraries']}, here {here}: pixels may differ")
    options = ("--out", str(tmp_path), "--set", f"generator.device={said['device']}")
    command = (sys.executable, "-m", "factory", "run", "quickstart", *options)
    environment = {**os.environ, **said["instructions"], "PYTHONPATH": str(ROOT)}
    subprocess.run((*command, "--executor", "local"), env=environment, check=True)
    assert list_identities(tmp_path) == {tuple(each) for each in said["images"]}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("summary.json", "card"),
        (".factory/run.json", "status"),
        (".factory/shards/*-r0.json", "status"),
        (".factory/workers/*.json", "refilter"),
        ("evaluation/fidelity.json", "card"),
    ],
)
def test_what_a_newer_version_wrote_is_refused_in_words_and_kept(old, name, command):
    (path, *_) = sorted((old / "run").glob(name))
    path.write_text(json.dumps({**read_json(path), "version": 2, "news": 1}))
    kept = path.read_bytes()
    for words in ((command, old / "run"), ("run", old / "recipe.yaml", "--out", old / "run")):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 2, result.output
        assert f"{path.name}: version 2 of this file is newer than 1" in result.stderr
        assert path.read_bytes() == kept
