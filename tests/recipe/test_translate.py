"""Translated images: planned, checked, kept beside their sources through every way out."""

import io
import json
import math
import shutil
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from factory.api import load_recipe
from factory.cli import main
from factory.core.errors import RecipeError
from factory.core.glass import find_glass, keep_glass
from factory.core.hashing import hash_bytes
from factory.core.images import hash_pixels
from factory.data.images import list_images, read_fitted
from factory.data.streams import Source
from factory.engine.plan import build_plan
from tests import ASSETS
from tests.running import read_rows, run, write_recipe

FROZEN = ASSETS / "oral-oscc" / "test"
PLAIN = {"filters": [], "budget": {"attempts": 1}}


def write(folder, *, model="fake", card=None, **block):
    return write_recipe(
        folder,
        name="pairs",
        generator={"model": model, "width": 64, "height": 64, "batch_size": 4},
        conditions=[{"kind": "translate", "images": str(FROZEN)} | block],
        output={"formats": ["parquet", "webdataset"], "shard_size": 4},
        card={"license": "cc-by-4.0", "source_license": "cc-by-4.0"} | (card or {}),
        **PLAIN,
    )


def plan(recipe):
    loaded = load_recipe(recipe)
    return build_plan(loaded.recipe, loaded.session).series[0]


def ask(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    run(write(folder, shots=6, group_pattern=r"(\d+)"), folder / "run")
    return folder / "run"


def test_sources_take_turns_and_keep_their_class_or_get_the_targets(tmp_path):
    own = plan(write(tmp_path / "a", per_image=2))
    count = len(list_images(FROZEN))
    assert own.count == 2 * count
    first, again = own.request_at(0), own.request_at(count)
    assert first.condition == again.condition
    assert (first.ordinal, again.ordinal) == (0, 1)
    assert set(own.class_names) == {path.name for path in FROZEN.iterdir()}
    other = plan(write(tmp_path / "b", to={"class_name": "ffpe"}))
    assert other.class_names == ("ffpe",)
    sources = [other.request_at(row).condition.get(Source).sha256 for row in range(count)]
    assert len(set(sources)) == count


def test_rows_are_pairs_that_tar_and_table_hold(made):
    rows = read_rows(made)
    assert len(rows) == 6
    known = {hash_bytes(image.read_bytes()): image for image in list_images(FROZEN)}
    for row in rows:
        source = np.asarray(Image.open(io.BytesIO(row["source"]["bytes"])).convert("RGB"))
        real = known[row["reference_sha256"]]
        assert np.array_equal(source, read_fitted(real, 64, 64, "crop"))
        told = json.loads(row["provenance"])
        assert told["condition"]["source"]["sha256"] == row["reference_sha256"]
        assert told["reference_pixels_sha256"] == hash_pixels(real.read_pixels())
        assert len(told["reference_group_sha256"]) == 64
        assert 0.0 <= told["notes"]["glass_fraction"] <= 1.0
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        assert image.shape == source.shape
        assert not np.array_equal(image, source)
    names = []
    for path in made.rglob("*.tar"):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert sum(name.endswith(".source.png") for name in names) == 6


def test_pairs_are_made_again_from_their_rows_alone(made):
    told = ask("verify", made, "--regenerate", 6)
    assert told.count(": exact") == 6


def test_report_and_refilter_take_pairs(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "run")
    ask("report", copy, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "each beside the real image that it varies" in page
    assert "references are not there any more" not in page
    ask("refilter", copy)
    assert all(row["source"]["bytes"] for row in read_rows(copy))


def test_a_row_that_keeps_no_source_needs_the_images(tmp_path):
    recipe = write(tmp_path, shots=2, keep_source=False)
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert all(row.get("source") is None for row in rows)
    asked = ("regenerate", tmp_path / "run", rows[0]["sample_id"], "--out", tmp_path / "again.webp")
    assert "exact" in ask(*asked)


def test_settings_that_an_inversion_does_not_read_are_refused(tmp_path):
    recipe = write(tmp_path, model="nano-he-base", method="invert", to={"domain": str(FROZEN)})
    given = ["generator.scheduler=HeunDiscrete", "budget.attempts=5"]
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, given)
    told = str(caught.value)
    assert "generator.scheduler: has no effect on method invert" in told
    assert "budget.attempts: method invert gives the same image" in told
    assert load_recipe(recipe)


def test_glass_of_the_source_stays_and_only_glass():
    source = np.full((48, 48, 3), 245, np.uint8)
    source[:, :24] = (180, 90, 150)
    source[10:12, 4:6] = 245  # a pale speck, narrower than glass
    made = np.full((48, 48, 3), 100, np.uint8)
    glass = find_glass(source)
    assert glass[:, 28:].all()
    assert not glass[:, :20].any()
    blended, share = keep_glass(made, source)
    assert np.array_equal(blended[:, 31:], source[:, 31:])
    assert np.array_equal(blended[:, :18], made[:, :18])
    assert share == pytest.approx(glass.mean())
    assert keep_glass(made, made)[1] == 0.0


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"method": "invert"}, "to is needed by method invert"),
        ({"strength": 0.5}, "strength has no effect on method model"),
        ({"method": "invert", "to": {"caption": "x"}}, "take model"),
        ({"to": {}}, "set class_name, caption or domain"),
        (
            {"method": "invert", "to": {"caption": "x"}, "per_image": 2},
            "makes one image of each source",
        ),
    ],
)
def test_what_has_no_effect_is_refused(tmp_path, block, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, **block))


@pytest.mark.slow("test_pairs_are_made_again_from_their_rows_alone")
def test_the_recipe_that_ships_runs_on_other_folders_and_its_rows_are_exact(tmp_path):
    """Frozen to FFPE by the shipped model, which was never taught to translate: few steps here."""
    ffpe = ASSETS / "pcam" / "test"
    changes = {
        "conditions.0.images": FROZEN,
        "conditions.0.to.domain": ffpe,
        "conditions.0.group_pattern": "null",
        "conditions.0.shots": 2,
        "conditions.0.to.domain_images": 4,
        "generator.steps": 4,
        "filters.1.min_correlation": -1,
        "filters.2.source": FROZEN,
        "filters.2.target": ffpe,
        "filters.2.min_share": -10,
    }
    given = [word for each in changes.items() for word in ("--set", "{}={}".format(*each))]
    ask("run", "translate", "--out", tmp_path / "run", "--executor", "local", *given)
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 2
    for row in rows:
        assert -1.0 <= row["scores"]["haematoxylin_correlation"] <= 1.0
        assert math.isfinite(row["scores"]["domain_reached"])
    told = ask(
        "verify", tmp_path / "run", "--regenerate", 4, "--references", FROZEN, "--references", ffpe
    )
    assert told.count(": exact") == 2, told
