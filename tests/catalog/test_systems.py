"""Models of the catalog say how far they were tried, and no more than a test shows."""

import importlib
import json
import re
from pathlib import Path

import pytest

from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import ModelEntry
from factory.core.errors import RecipeError
from factory.models.generators.calls import find_call
from factory.models.generators.families import FAMILIES
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.settings import GeneratorSettings
from tests import ROOT
from tests.contract import try_contract
from tests.pipelines import SETTINGS, save_pipeline
from tests.running import call

TWINS = ("QwenImagePipeline", "ZImagePipeline")
"""Pipelines of the catalog that no other test builds; SanaPipeline is tried every day."""

ASKED = """
mupad-256 mupad-512 mupad-he2mif mupad-he2st pixcell-256 pixcell-1024
pixcell-256-cell-controlnet pixcell-virtual-staining pathldm zoomldm
large-image-diffusion-brca-20x unipath-7b cytosyn cytosyn-unconditional
stable-diffusion-1-5 stable-diffusion-xl
stable-diffusion-3-5-large flux-1-dev flux-2-dev flux-2-klein-4b pixart-sigma sana
qwen-image z-image-turbo dit-256 geneflow ai-ffpe cut cyclegan gigatime gigatime-flash
histoplexer
"""
"""Systems that the field compares with."""
ENTRIES = load_catalogs().list_models()


@pytest.mark.slow("models/test_any_pipeline.py::test_keeps_the_contract")
@pytest.mark.parametrize("name", TWINS)
def test_tiny_twins_keep_the_contract(name: str, tmp_path: Path) -> None:
    folder = save_pipeline(name, tmp_path / name)
    assert try_contract(folder, tmp_path, SETTINGS.get(name, {})).fault == ""


def test_every_system_has_an_entry() -> None:
    assert set(ASKED.split()) <= {entry.id for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_no_entry_claims_more_than_a_test_shows(entry: ModelEntry) -> None:
    status = entry.status
    assert status is not None
    family = FAMILIES.get(entry.family)(GeneratorSettings(model=entry.id), entry)
    is_lacking = isinstance(family, PipelineFamily) and family.lacking is not None
    is_refused = family.is_on_record or is_lacking
    assert not (is_refused and status.state.startswith("runs here")), status.words
    assert is_refused or status.state != "cannot be loaded", status.words
    if status.state == "runs here":
        assert Path(entry.source).is_absolute() or entry.source == entry.family
    if status.test:
        assert_shown(entry, status.test)


def assert_shown(entry: ModelEntry, test: str) -> None:
    """A test of this name and case is there, and the case is of the entry's family."""
    found = re.fullmatch(r"([\w/]+\.py)::(test_\w+)(?:\[([\w-]+)\])?", test)
    assert found is not None and (ROOT / "tests" / found[1]).is_file(), test
    name = "tests." + found[1].removesuffix(".py").replace("/", ".")
    function = getattr(importlib.import_module(name), found[2])
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    cases = {str(case) for mark in marks for case in mark.args[1]}
    assert (found[3] in cases) if found[3] else not cases, test
    if entry.family == "diffusers":
        assert find_call(str(found[3])) is not None, test
    elif entry.status is not None and entry.status.state == "runs here on tiny weights":
        assert found[3] == entry.family or entry.family in found[1], test


def write_entry(folder: Path, **fields: object) -> None:
    entry = {
        "id": "mine",
        "source": "a/b",
        "family": "fake",
        "width": 64,
        "height": 64,
        "steps": 1,
        "guidance": 1.0,
        "licence": {"id": "mit", "date_read": "2026-11-26"},
    }
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models" / "mine.yaml").write_text(json.dumps(entry | fields))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"state": "runs here"}, "needs a test that shows it"),
        ({"state": "cannot be loaded"}, "needs a reason: add why"),
        ({"state": "works", "why": "x"}, "status.state"),
    ],
)
def test_a_status_says_what_shows_it(tmp_path: Path, status: dict[str, str], message: str) -> None:
    write_entry(tmp_path, status=status)
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_catalogs([tmp_path]).find_model("mine")


def test_an_entry_that_adapts_another_claims_nothing_of_it(tmp_path: Path) -> None:
    write_entry(tmp_path, base="nano-he", family="flow")
    assert load_catalogs([tmp_path]).find_model("mine").status is None


def test_list_show_and_check_tell_the_status() -> None:
    def ask(*words: str) -> str:
        return call("models", *words).output

    lines = {line.split()[0]: line for line in ask("list").splitlines()}
    assert "runs here on tiny weights" in lines["sana"]
    assert json.loads(ask("show", "unipath-7b", "--json"))["status"]["state"] == "cannot be loaded"
    shown = json.loads(ask("show", "gigatime", "--json"))
    assert len(shown["channels"]["named"]) == 23
    assert shown["output"].startswith("no commercial use")
    assert "cannot be loaded: its code asks one prompt a call" in ask("check", "unipath-7b")


def test_validate_tells_what_was_not_tried(tmp_path: Path) -> None:
    classes = "conditions: [{kind: class, per_class: {a: 1}}]"
    for model, told in (("pixart-alpha", "asked as pixart-sigma is"), ("mupad-256", "no copy")):
        head = f"name: x\ngenerator: {{model: {model}}}\n"
        (tmp_path / "r.yaml").write_text(head + classes)
        result = call("validate", str(tmp_path / "r.yaml"))
        assert told in result.output
