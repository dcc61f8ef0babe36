"""Translated images: planned, checked, kept beside their sources through every way out."""

import base64
import io
import json
import math
import re
import shutil
import tarfile

import mlcroissant as mlc
import numpy as np
import pytest
from PIL import Image

from factory.api import load_recipe
from factory.core.errors import RecipeError
from factory.core.glass import find_glass, keep_glass
from factory.core.haematoxylin import keep_haematoxylin
from factory.core.hashing import hash_bytes
from factory.core.images import hash_pixels
from factory.core.metrics.structure import correlate_haematoxylin
from factory.core.notes import listen
from factory.core.stains import split_stains
from factory.data.groups import hash_group
from factory.data.images import list_images, read_fitted
from factory.data.streams import Domain, Source
from factory.data.streams.source import Translation
from factory.engine.plan import build_plan
from factory.publish.merge.members import read_synthetic
from tests import ASSETS
from tests.pipelines import save_pipeline
from tests.running import ask, read_rows, run, write_recipe

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


def measure_widest(page):
    """Returns the width of the widest image that a page embeds, px."""
    found = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    return max(Image.open(io.BytesIO(base64.b64decode(each))).width for each in found)


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
    assert "This file holds real images" in page
    ask("report", copy, "--no-real", "--out", tmp_path / "shared.html")
    shared = (tmp_path / "shared.html").read_text()
    assert "This file holds real images" not in shared
    assert (measure_widest(page), measure_widest(shared)) == (130, 64)
    ask("refilter", copy)
    assert all(row["source"]["bytes"] for row in read_rows(copy))


def test_card_and_croissant_say_that_a_column_holds_real_images(made):
    card = (made / "README.md").read_text()
    assert "Where column `source` is not empty, **it holds the real image**" in card
    assert "rows hold the real images that were translated" in card
    told = json.loads((made / "croissant.json").read_text())
    assert "the column source holds the real image" in told["rai:dataCollectionRawData"]
    record = next(iter(mlc.Dataset(jsonld=made / "croissant.json").records("default")))
    assert record["default/source"].size == (64, 64)


def test_a_run_that_holds_sources_is_not_gone_on_with_without_them(tmp_path):
    run(write(tmp_path, shots=2), tmp_path / "run")
    told = ask(
        "run",
        tmp_path / "recipe.yaml",
        "--out",
        tmp_path / "run",
        "--set",
        "conditions.0.keep_source=false",
        code=2,
    )
    assert "use another --out" in told


def test_the_captions_of_a_source_name_its_class_and_repeated_images_are_counted(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "real" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), (200, len(name), ord(name))).save(
            tmp_path / "real" / name / "1.png"
        )
    shutil.copy(tmp_path / "real" / "a" / "1.png", tmp_path / "real" / "a" / "2.png")
    recipe = write(
        tmp_path,
        model="nano-he-base",
        images=str(tmp_path / "real"),
        method="invert",
        source_caption="{class_name}, frozen",
        to={"caption": "{class_name}, fixed"},
    )
    with listen() as heard:
        series = plan(recipe)
    assert any("1 images repeat others" in note for note in heard)
    found = {(c.caption, c.get(Source).translation.caption) for c in series.conditions}
    assert found == {(f"{name}, fixed", f"{name}, frozen") for name in ("a", "b")}


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


def test_haematoxylin_stays_where_it_is_in_the_strength_that_was_made():
    rows, columns = np.mgrid[0:64, 0:64]
    nuclei = np.hypot(rows % 16 - 8, columns % 16 - 8) < 4
    source = np.where(nuclei[..., None], (70, 40, 120), (215, 150, 205)).astype(np.uint8)
    source[:, 48:] = 250  # glass
    moved = np.roll(nuclei, 5, 0)
    made = np.where(moved[..., None], (110, 60, 140), (240, 120, 180)).astype(np.uint8)
    kept = keep_haematoxylin(made, source)
    before, after = (correlate_haematoxylin(each[None], source[None])[0] for each in (made, kept))
    assert before < 0.8 < 0.97 < after
    tissue = np.s_[:, :44]
    for plane in (0, 1):
        one, other = (split_stains(each[None])[plane, 0][tissue] for each in (made, kept))
        assert other.mean() == pytest.approx(one.mean(), abs=0.03)
    assert np.abs(kept[tissue].astype(int) - source[tissue]).mean() > 10
    assert keep_haematoxylin(made, np.full_like(source, 250)) is made
    assert keep_haematoxylin(made, np.full_like(source, (180, 90, 150))) is made


def test_rows_that_keep_haematoxylin_say_so_and_those_that_do_not_stay_as_they_were(tmp_path):
    plain, kept = (
        plan(write(tmp_path / name, keep_haematoxylin=name == "kept")) for name in ("plain", "kept")
    )
    told = [each.conditions[0].describe()["source"]["translation"] for each in (plain, kept)]
    assert told == [
        {"method": "model", "keep_glass": True},
        {"method": "model", "keep_glass": True, "keep_haematoxylin": True},
    ]
    assert Translation.restore(told[1]).keep_haematoxylin
    assert plain.key != kept.key
    run(tmp_path / "kept" / "recipe.yaml", tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    pairs = [
        np.stack([np.asarray(Image.open(io.BytesIO(row[each]["bytes"]))) for row in rows])
        for each in ("image", "source")
    ]
    assert np.median(correlate_haematoxylin(*pairs)) > 0.9
    assert ask("verify", tmp_path / "run", "--regenerate", 2).count(": exact") == 2


@pytest.mark.slow(
    "models/test_translation.py::test_pipelines_of_masks_and_instructions_change_sources"
)
def test_a_pipeline_with_a_mask_makes_anew_what_given_masks_say(tmp_path):
    model = save_pipeline("StableDiffusionInpaintPipeline", tmp_path / "inpaint")
    for image in list_images(FROZEN):
        labels = np.zeros(image.read_pixels().shape[:2], np.uint8)
        labels[:, : labels.shape[1] // 2] = 1
        path = (tmp_path / "masks" / image.key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    block = {"kind": "translate", "images": str(FROZEN), "method": "image_to_image", "shots": 2}
    block |= {"to": {"caption": "pink"}, "masks": str(tmp_path / "masks"), "fit": "resize"}
    recipe = write_recipe(
        tmp_path,
        name="anew",
        generator={"model": str(model), "width": 32, "height": 32, "steps": 4, "batch_size": 2},
        conditions=[block],
        card={"license": "cc-by-4.0", "source_license": "cc-by-4.0"},
        **PLAIN,
    )
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 2
    for row in rows:
        labels = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        assert (labels[:, :16] == 1).all() and (labels[:, 16:] == 0).all()
    assert ask("verify", tmp_path / "run", "--regenerate", 2).count(": exact") == 2
    missing = next((tmp_path / "masks").rglob("*.png"))
    missing.unlink()
    with pytest.raises(RecipeError, match=r"conditions\[0\].masks: .*no mask named as"):
        load_recipe(recipe)


def test_patients_of_a_domain_are_recorded_where_they_are_told(tmp_path):
    target = {"domain": str(ASSETS / "pcam" / "test"), "domain_images": 4}
    pattern = r"valid_(\d+)"
    bare = plan(write(tmp_path / "bare", shots=2, to=target))
    told = plan(write(tmp_path / "told", shots=2, to={**target, "group_pattern": pattern}))
    assert bare.key == told.key
    assert bare.conditions[0].get(Domain).record() == {}
    run(tmp_path / "told" / "recipe.yaml", tmp_path / "run")
    row = read_rows(tmp_path / "run")[0]
    patients = json.loads(row["provenance"])["domain_group_sha256"]
    assert len(patients) == 4 == len(set(patients))
    known = {
        hash_group(each.group)
        for each in list_images(ASSETS / "pcam" / "test", group_pattern=pattern)
    }
    assert set(patients) <= known
    members = list(read_synthetic(tmp_path / "run", "made", {}))
    assert all(set(each.groups) >= set(patients) for each in members)
    for faulty, message in (
        ({"class_name": "x", "group_pattern": pattern}, "are of domain: remove them"),
        ({**target, "group_pattern": "valid"}, r"to.group_pattern: needs a group"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(write(tmp_path / "faulty", to=faulty))


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
        "conditions.0.steps": 3,
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
        assert math.isfinite(row["scores"]["domain_reached"])
        assert row["scheduler"] == "Euler on the sigmas of UniPCMultistepScheduler"
        assert row["num_inference_steps"] == 3
        assert row["scores"]["haematoxylin_correlation"] > 0.9
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- Euler on the sigmas of UniPCMultistepScheduler, 3 steps, guidance 1" in card
    told = ask(
        "verify", tmp_path / "run", "--regenerate", 4, "--references", FROZEN, "--references", ffpe
    )
    assert told.count(": exact") == 2, told
