"""A generator family and an encoder of one's own, each one file of an installed package."""

import shutil
import tomllib

import pytest
import yaml

from tests import ASSETS, ROOT
from tests.documents import list_blocks
from tests.plugged import PLUGINS, install, run_python
from tests.running import read_json, read_rows, write_recipe

MODEL = {
    "id": "drawn",
    "title": "drawn, glands of normal and tumour tissue",
    "source": "drawn",
    "family": "glands",
    "required": ["class_name"],
    "class_names": ["normal", "tumor"],
    "width": 64,
    "height": 64,
    "steps": 1,
    "guidance": 1.0,
    "licence": {"id": "cc0-1.0", "url": "https://example.org", "date_read": "2026-01-02"},
}
BROKEN = {
    "factory.generators": {"broken": "not_there:Broken"},
    "factory.encoders": {"shattered": "not_there:Shattered"},
}
SHATTERED = {"kind": "realism", "images": "real", "encoder": "shattered:1"}

USE = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from click.testing import CliRunner
from factory.cli import main
sys.path.insert(0, sys.argv[1])
from tests.documents import load_hook
from tests.plugged import call

call("validate", "recipe.yaml")
schema = json.loads(call("schema"))["$defs"]
assert "glands" in schema["GeneratorSettings"]["properties"]["family"]["anyOf"][0]["enum"]
assert "hues:NUMBER" in schema["RealismFilter"]["properties"]["encoder"]["examples"]
listed = json.loads(call("models", "list", "--catalog", ".", "--json"))
(drawn,) = (each for each in listed if each["id"] == "drawn")
assert drawn["runs"] and drawn["family"] == "glands"
assert "loads and samples here" in call("models", "check", "drawn", "--catalog", ".")
assert "(24 features" in call("encoders", "check", "hues:24")
planned = json.loads(call("plan", "recipe.yaml", "--no-calibrate", "--json"))
assert [each["count"] for each in planned["series"]] == [2, 2]
call("run", "recipe.yaml", "--out", "run")
call("report", "run")
call("card", "run")
assert call("verify", "run", "--regenerate", "4", "--base", ".").count(": exact") == 4
name = next(Path("run/data").iterdir())
name = pq.read_table(name)["sample_id"][0].as_py()
assert "exact" in call("regenerate", "run", name, "--out", "again.png", "--base", ".")
pages = load_hook().WRITERS
assert "### glands" in pages["families"]() and "hues:NUMBER" in pages["encoder kinds"]()
for page in ("families", "encoder kinds"):
    assert "From package factory-glands 0.3" in pages[page]()

said = call("validate", "broken.yaml", code=2)
assert "models/broken.yaml:" in said and ": family: 'broken' is broken" in said, said
assert "(package factory-glands 0.3" in said and "No module named 'not_there'" in said, said
said = call("models", "list", "--catalog", ".")
assert "'broken' is broken (package factory-glands 0.3" in said, said
said = call("validate", "recipe.yaml", "--set", "generator.family=broken", code=2)
assert "'broken' is broken (package factory-glands" in said, said
said = call("validate", "misspelt.yaml", code=2)
assert "models/misspelt.yaml:" in said and "did you mean 'glands'?" in said, said
said = call("validate", "shattered.yaml", code=2)
assert "filters[0].encoder: 'shattered' is broken (package factory-glands 0.3" in said, said
assert "shattered.yaml:" in said, said
"""


@pytest.mark.slow(
    "filters/test_plugin_filters.py::test_an_installed_filter_is_known_to_every_command"
)
def test_an_installed_family_and_encoder_are_known_to_every_command(tmp_path):
    install("glands", tmp_path / "site", BROKEN)
    shutil.copytree(ASSETS / "pcam" / "train", tmp_path / "real")
    (tmp_path / "models").mkdir()
    for name, family in (("drawn", "glands"), ("broken", "broken"), ("misspelt", "gland")):
        entry = {**MODEL, "id": name, "family": family}
        (tmp_path / "models" / f"{name}.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
        write_recipe(
            tmp_path,
            catalogs=["."],
            generator={"model": name, "width": None, "height": None},
            conditions=[{"kind": "class", "per_class": 2}],
            filters=[{"kind": "realism", "images": "real", "encoder": "hues:12"}],
        ).rename(tmp_path / f"{name}.yaml")
    (tmp_path / "drawn.yaml").rename(tmp_path / "recipe.yaml")
    write_recipe(tmp_path / "other", filters=[SHATTERED]).rename(tmp_path / "shattered.yaml")
    run_python(tmp_path / "site", "-c", USE, str(ROOT), folder=tmp_path)
    rows = read_rows(tmp_path / "run")
    assert sorted(row["class_name"] for row in rows) == ["normal"] * 2 + ["tumor"] * 2
    assert len({row["image_sha256"] for row in rows}) == 4
    maker = read_json(tmp_path / "run" / "summary.json")["makers"][0]
    assert maker["generator"]["family"] == "glands"
    assert maker["filters"][0]["encoder_revision"] == "1"
    for page in ("report.html", "README.md"):
        text = (tmp_path / "run" / page).read_text()
        assert "drawn" in text and "hues:12" in text, page


def test_the_pages_show_these_files():
    blocks = list_blocks((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    shown = {block.title: block.text for block in blocks}
    written = [tomllib.loads(block.text) for block in blocks if block.title == "pyproject.toml"]
    points = [each["project"]["entry-points"] for each in written]
    for plugin in ("glands", "ratio"):
        for path in (PLUGINS / plugin).glob("*.py"):
            assert shown[path.name] == path.read_text(encoding="utf-8")
        project = tomllib.loads((PLUGINS / plugin / "pyproject.toml").read_text())["project"]
        for group, entries in project["entry-points"].items():
            assert {group: entries} in points
