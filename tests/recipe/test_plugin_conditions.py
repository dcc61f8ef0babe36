"""A condition kind of one's own, installed as a package: one file, and every command knows it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests import ROOT
from tests.commands import open_commands
from tests.plugged import install
from tests.running import call

ROWS = "patient,class_name,eosin,haematoxylin\np1,tumor,0.4,-1.25\np2,normal,-0.1,0\n"
RECIPE: dict[str, Any] = {
    "name": "stain-targets",
    "seed": 5,
    "catalogs": ["."],
    "generator": {"model": "drawn", "batch_size": 4},
    "conditions": [
        {
            "kind": "stain_target",
            "targets": "targets.csv",
            "count": 6,
            "licence": {"id": "cc-by-4.0", "url": "https://example.org", "date_read": "2026-01-02"},
        },
        {"kind": "class", "per_class": {"tumor": 1}},
    ],
    "filters": [{"kind": "finite"}],
}
MODEL = {
    "id": "drawn",
    "base": "fake",
    "title": "fake, asked by stain amounts too",
    "optional": ["class_name", "stain_target"],
}
Factory = Callable[..., str]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """Runs commands where the plug-in is installed, as an installer leaves it."""
    site = tmp_path_factory.mktemp("site")
    install("stain_target", site)
    install("ratio", site)
    paths = os.pathsep.join([str(site), str(ROOT)])
    with open_commands({**os.environ, "PYTHONPATH": paths}, site) as call:

        def run(*words: str, code: int = 0) -> str:
            done = call(*words)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        yield run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "targets.csv").write_text(ROWS)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "models").mkdir()
    (folder / "models" / "drawn.yaml").write_text(yaml.safe_dump(MODEL))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def run(factory: Factory, recipe: Path) -> Path:
    folder = recipe.parent / "run"
    factory("run", str(recipe), "--out", str(folder))
    return folder


def test_it_is_validated_and_its_mistakes_have_file_line_and_field(
    factory: Factory, recipe: Path, tmp_path: Path
) -> None:
    factory("validate", str(recipe))
    wrong = shutil.copytree(recipe.parent, tmp_path / "wrong") / recipe.name
    (wrong.parent / "targets.csv").write_text(ROWS.replace("0.4", "high"))
    told = factory("validate", str(wrong), code=2)
    assert "conditions[0].targets: " in told and "could not convert" in told
    assert f"{wrong}:" in told
    told = factory("validate", str(wrong), "--set", "conditions[0].cuont=3", code=2)
    assert "did you mean 'count'" in told
    told = factory("validate", str(recipe), "--set", "generator={model: nano-he}", code=2)
    assert "conditions[0].kind: nano-he takes no stain_target conditions" in told


def test_it_is_in_the_schema(factory: Factory) -> None:
    schema = json.loads(factory("schema"))
    part = schema["$defs"]["StainTargetConditions"]
    assert part["properties"]["kind"]["const"] == "stain_target"
    mapping = schema["properties"]["conditions"]["items"]["discriminator"]["mapping"]
    assert mapping["stain_target"] == "#/$defs/StainTargetConditions"


def test_the_one_of_the_pages_is_known_and_its_count_may_rise(
    factory: Factory, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    block = {"kind": "ratio", "per_part": 2, "parts": {"normal": 1, "tumor": 3}}
    model = {"model": "nano-he"}
    content = {"name": "parts", "seed": 5, "generator": model, "conditions": [block]}
    recipe.write_text(yaml.safe_dump(content))
    told = json.loads(factory("plan", str(recipe), "--no-calibrate", "--json"))
    counts = {"normal (ratio)": 2, "tumor (ratio)": 6}
    assert {each["label"]: each["count"] for each in told["series"]} == counts
    told = factory("validate", str(recipe), "--set", "conditions[0].parts={tumour: 1}", code=2)
    assert "conditions[0].parts" in told and "did you mean 'tumor'" in told


def test_it_is_planned(factory: Factory, recipe: Path) -> None:
    told = json.loads(factory("plan", str(recipe), "--no-calibrate", "--json"))
    assert told["series"] == [{"label": "targets", "count": 6}, {"label": "tumor", "count": 1}]
    assert "terms of the targets targets.csv (cc-by-4.0)" in told["terms"]["not_stated"][0]


def test_rows_show_the_values_and_record_the_patient(run: Path) -> None:
    rows = [row for file in (run / "data").iterdir() for row in pq.read_table(file).to_pylist()]
    shown = {row["stain_target"] for row in rows}
    first = '{"eosin": 0.4, "haematoxylin": -1.25}'
    assert shown == {first, '{"eosin": -0.1, "haematoxylin": 0.0}', None}
    mine = [row for row in rows if row["stain_target"] == first]
    assert [row["class_name"] for row in mine] == ["tumor"] * 3
    assert (
        len({row["image_sha256"] for row in mine}) == len({row["sample_id"] for row in mine}) == 3
    )
    provenance = json.loads(mine[0]["provenance"])
    assert provenance["condition"]["stain_target"] == {"eosin": 0.4, "haematoxylin": -1.25}
    assert len(provenance["stain_target_group_sha256"]) == 64


def test_card_and_report_tell_of_it(factory: Factory, run: Path, tmp_path: Path) -> None:
    factory("card", str(run))
    card = (run / "README.md").read_text()
    assert "the targets targets.csv: cc-by-4.0" in card
    assert "| targets |" in card
    factory("report", str(run), "--out", str(tmp_path / "report.html"))
    assert "targets" in (tmp_path / "report.html").read_text()


def test_rows_are_made_again_and_verified(factory: Factory, run: Path, tmp_path: Path) -> None:
    base = ("--base", str(run.parent))
    told = factory("verify", str(run), "--regenerate", "7", *base)
    assert told.count(": exact") == 7 and "sound" in told
    name = pq.read_table(next((run / "data").iterdir()))["sample_id"][0].as_py()
    out = tmp_path / "again.webp"
    assert "exact" in factory("regenerate", str(run), name, "--out", str(out), *base)
    assert out.stat().st_size > 0


def test_without_the_package_a_row_names_what_is_missing(run: Path) -> None:
    done = call("verify", str(run))
    assert done.exit_code != 0
    assert "stain_target" in done.output
