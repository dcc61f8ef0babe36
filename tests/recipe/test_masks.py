"""Images of real masks: planned, checked, kept by rows through every way out, and made again."""

import io
import json
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.api import load_recipe
from factory.core.errors import RecipeError
from factory.core.hashing import hash_bytes
from factory.data.label_maps import decode_labels, turn_labels
from factory.data.streams import Control
from factory.engine.plan import build_plan
from tests import ASSETS
from tests.running import ask, read_rows, run, write_recipe

MASKS = ASSETS / "masks"
LICENCE = {"id": "cc-by-4.0", "date_read": "2026-11-26", "attribution": ["A. Mahbod et al."]}
NUCLEI = {
    "kind": "mask",
    "masks": str(MASKS / "nuclei"),
    "palette": {1: "nucleus"},
    "per_mask": 1,
    "licence": LICENCE,
}
PLAIN = {"filters": [], "budget": {"attempts": 1}}


def write(folder, *, name="masks", size=64, **block):
    generator = {"model": "fake", "width": size, "height": size, "batch_size": 4}
    return write_recipe(
        folder, name=name, generator=generator, conditions=[NUCLEI | block], **PLAIN
    )


def plan(recipe):
    loaded = load_recipe(recipe)
    return build_plan(loaded.recipe, loaded.session).series[0]


def list_identities(series, count=None):
    requests = [series.request_at(index) for index in range(count or series.count)]
    return [(each.condition.key, each.ordinal) for each in requests]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    output = {"formats": ["parquet", "webdataset"], "shard_size": 4}
    recipe = write_recipe(
        folder,
        name="masks",
        generator={"model": "fake", "width": 64, "height": 64, "batch_size": 4},
        conditions=[NUCLEI, {"kind": "class", "per_class": {"human_liver": 2}}],
        output=output,
        **PLAIN,
    )
    run(recipe, folder / "run")
    return folder / "run"


# --- the plan ------------------------------------------------------------------------------------


def test_masks_take_turns_and_no_request_repeats(tmp_path):
    series = plan(write(tmp_path, per_mask=3, variants=2))
    assert series.count == 3 * 16
    found = list_identities(series)
    assert len(set(found)) == 48
    assert len({key for key, _ in found}) == 32
    assert series.class_names == ("human_liver", "human_pancreas")
    first = [series.request_at(index).condition for index in range(16)]
    assert all("turn" not in each.get(Control).identity() for each in first)
    second = series.request_at(16).condition.get(Control)
    assert second.identity()["turn"] in range(1, 8)
    labels = decode_labels(second.source.image.read_bytes(), "m")
    turned = turn_labels(labels, second.source.turn)[32:96, 32:96]
    assert np.array_equal(second.load(64, 64), turned)


def test_a_raised_count_changes_no_request_and_the_seed_only_the_order(tmp_path):
    few = list_identities(plan(write(tmp_path / "a", per_mask=None, count=20)))
    many = plan(write(tmp_path / "b", per_mask=None, count=50))
    assert list_identities(many, 20) == few
    other = write(tmp_path / "c", per_mask=None, count=16)
    other.write_text(other.read_text().replace("seed: 7", "seed: 8"))
    shuffled = list_identities(plan(other))
    assert shuffled != few[:16]
    assert sorted(shuffled) == sorted(few[:16])


def test_equal_masks_count_once_whatever_their_files(tmp_path):
    folder = tmp_path / "nuclei"
    shutil.copytree(MASKS / "nuclei", folder)
    source = sorted((folder / "human_liver").iterdir())[0]
    with Image.open(source) as mask:
        mask.convert("L").point(bool).save(source.with_name("copy.tif"))
    assert plan(write(tmp_path, masks=str(folder))).count == 16


def test_masks_of_a_table_bring_class_caption_and_patient(made, tmp_path):
    rows = [row for row in read_rows(made) if row["mask"]]
    table = {
        "mask": [row["mask"]["bytes"] for row in rows],
        "organ": [row["class_name"] for row in rows],
        "text": [f"H&E number {number}" for number in range(len(rows))],
        "patient": [f"p{number // 4}" for number in range(len(rows))],
    }
    pq.write_table(pa.table(table), tmp_path / "masks.parquet")
    columns = {
        "mask_column": "mask",
        "label_column": "organ",
        "caption_column": "text",
        "group_column": "patient",
    }
    series = plan(write(tmp_path, masks=str(tmp_path / "masks.parquet"), **columns))
    found = [series.request_at(index).condition for index in range(16)]
    assert {each.caption for each in found} == set(table["text"])
    assert {each.class_name for each in found} == {"human_liver", "human_pancreas"}
    assert len({each.get(Control).groups() for each in found}) == 4
    first_four = {each.get(Control).groups() for each in found[:4]}
    assert len(first_four) == 4, "every patient gives its first before any gives its second"


def test_patients_of_a_finished_run_go_with_its_masks_and_images(tmp_path):
    (tmp_path / "masks").mkdir()
    for number in range(4):
        labels = np.zeros((64, 64), np.uint8)
        labels[8:40, 8 + number : 40] = 1
        Image.fromarray(labels).save(tmp_path / "masks" / f"p{number // 2}_{number}.png")
    recipe = write(tmp_path, masks=str(tmp_path / "masks"), group_pattern="(p[0-9])_")
    run(recipe, tmp_path / "run")
    asked = {hash_bytes(name.encode()): 2 for name in ("p0", "p1")}
    images = {"images": str(tmp_path / "run")}
    for block in (
        {**NUCLEI, "masks": str(tmp_path / "run"), "mask_column": "mask"},
        {"kind": "reference", **images, "per_class": 4},
        {"kind": "embedding", **images, "encoder": "color-texture", "per_row": 1},
    ):
        series = plan(write_recipe(tmp_path / block["kind"], conditions=[block], **PLAIN))
        found = [series.request_at(index).condition.streams for index in range(4)]
        told = [sha256 for streams in found for each in streams for sha256 in each.groups()]
        assert Counter(told) == asked, block["kind"]


# --- the checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"palette": {2: "gland"}}, r"palette: .*human_liver.* and 13 more: has the values 1, "),
        ({"palette": {}}, r"conditions\[0\].palette: must not be empty"),
        ({"palette": {300: "nucleus"}}, r"palette.300: must be <= 255"),
        ({"palette": {1: "a", 2: "a"}}, r"palette: a name stands twice"),
        ({"palette": {1: "a", 2: "b"}, "values": "objects"}, r"objects are all of one name"),
        ({"palette": {90: "a"}, "values": "coded"}, r"ids of objects are at most 64"),
        ({"count": 3}, r"takes either per_mask or count"),
        ({"per_mask": None}, r"takes either per_mask or count"),
        ({"caption": "{organ}"}, r"conditions\[0\].caption: unknown \{organ\}"),
        ({"masks": "nowhere"}, r"conditions\[0\].masks: .*nowhere"),
        ({"masks": str(MASKS / "images")}, r"conditions\[0\].masks: .*3 channels, but a label"),
        ({"masks": str(MASKS / "glands")}, r"palette: .*has the values 2, which it does not name"),
        ({"group_pattern": "x", "group_column": "y"}, r"either group_column or group_pattern"),
    ],
)
def test_mistakes_have_file_line_field_and_remedy(tmp_path, block, message):
    recipe = write(tmp_path, **block)
    told = ask("validate", recipe, code=2)
    assert re.search(message, told), told
    assert re.search(r"recipe\.yaml:\d+:\d+: conditions\[0\]", told), told


def test_small_and_empty_masks_are_told(tmp_path):
    told = ask("validate", write(tmp_path / "a", size=256), code=2)
    assert "conditions[0].fit: " in told
    assert "128 x 128 px, but 256 x 256 px are asked for: take resize" in told
    ask("validate", write(tmp_path / "b", size=256, fit="resize"))
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.new("L", (64, 64)).save(folder / "empty.png")
    told = ask("validate", write(tmp_path / "c", masks=str(folder)), code=2)
    assert "empty.png: marks nothing: remove it, or set allow_empty: true" in told
    ask("validate", write(tmp_path / "d", masks=str(folder), allow_empty=True))


def test_objects_that_no_shard_could_code_are_told(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    numbered = np.zeros((64, 64), np.uint16)
    numbered[4:20, 4:20], numbered[24:40, 24:40] = 1, 2
    Image.fromarray(numbered).save(folder / "few.png")
    told = ask("validate", write(tmp_path / "a", masks=str(folder), values="coded"), code=2)
    assert "].values: " in told and "few.png: has the values 1, 2, which code no name" in told
    assert "values: objects, if it numbers objects 1 .. n" in told
    ask("validate", write(tmp_path / "b", masks=str(folder), values="objects"))
    many = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(many).save(folder / "many.png")
    told = ask("validate", write(tmp_path / "c", masks=str(folder), values="objects"), code=2)
    assert "many.png: 4,095 objects, but 16 bits hold 999 of each name: cut it" in told
    recipe = write(tmp_path / "d", masks=str(folder), values="objects", size=16)
    ask("validate", recipe)  # of what is cut


def test_masks_of_a_run_are_in_the_column_that_the_message_names(made, tmp_path):
    told = ask("validate", write(tmp_path / "a", masks=str(made)), code=2)
    assert "3 channels, but a label map has one" in told
    assert "these are of column 'image': name that of the masks with mask_column" in told
    table = {"one": [b""], "two": [b""]}
    pq.write_table(pa.table(table), tmp_path / "two.parquet")
    told = ask("validate", write(tmp_path / "b", masks=str(tmp_path / "two.parquet")), code=2)
    assert "one, two may hold the images: name it with mask_column" in told


def test_a_model_says_what_its_masks_may_mark(tmp_path):
    (tmp_path / "models").mkdir()
    entry = {"id": "taught", "base": "fake", "control": {"palette": {"gland": 1}}}
    (tmp_path / "models" / "taught.yaml").write_text(json.dumps(entry))
    recipe = write(tmp_path)
    changed = recipe.read_text().replace("model: fake", "model: taught") + "catalogs: ['.']\n"
    recipe.write_text(changed)
    told = ask("validate", recipe, code=2)
    assert "palette.1: taught was taught no 'nucleus': it knows gland" in told
    told = ask("validate", recipe, "--set", "generator.model=nano-he", code=2)
    assert "conditions[0].kind: nano-he takes no mask conditions" in told


def test_no_mask_is_read_where_files_are_not_to_be(tmp_path):
    ask("validate", write(tmp_path, masks="nowhere"), "--no-files")
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, masks="nowhere", palette={}))


# --- what a run keeps ----------------------------------------------------------------------------


def test_rows_hold_image_and_mask_of_one_size(made):
    rows = read_rows(made)
    assert len(rows) == 18
    masked = [row for row in rows if row["mask"] is not None]
    assert len(masked) == 16
    for row in masked:
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), float)
        labels = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        assert labels.shape == pixels.shape[:2] == (64, 64)
        inside = labels > 0
        assert pixels[..., 0][inside].mean() < pixels[..., 0][~inside].mean() - 20
        assert json.loads(row["provenance"])["condition"]["control"]["palette"] == {"1": "nucleus"}


def test_rows_are_made_again_without_the_masks_files(made):
    told = ask("verify", made, "--regenerate", 18)
    assert told.count(": exact") == 18
    assert "sound" in told


def test_a_changed_mask_is_found(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "run")
    path = next((copy / "data").iterdir())
    table = pq.read_table(path)
    rows = table.to_pylist()
    broken = next(row for row in rows if row["mask"])
    broken["mask"]["bytes"] = rows[-1]["image"]["bytes"]
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    told = ask("verify", copy, code=1)
    assert "mask" in told and broken["sample_id"] in told


def test_the_card_names_the_masks_terms(made):
    ask("card", made)
    card = (made / "README.md").read_text()
    assert "the source masks nuclei: cc-by-4.0" in card
    assert "A. Mahbod et al." in card


def test_tars_hold_the_mask_beside_the_image(made, tmp_path):
    import tarfile

    ask("export", made, "--to", "webdataset", "--out", tmp_path / "tars")
    for folder in (made / "webdataset", tmp_path / "tars"):
        with tarfile.open(next(folder.glob("*.tar"))) as tar:
            names = tar.getnames()
            masks = {
                name.partition(".")[0]: tar.extractfile(name).read()
                for name in names
                if name.endswith(".mask.png")
            }
        kept = {row["sample_id"]: row["mask"]["bytes"] for row in read_rows(made) if row["mask"]}
        assert masks == kept


@pytest.mark.parametrize("values", ["objects", "coded"])
def test_a_mask_of_objects_that_marks_nothing_runs_reports_and_is_made_again(tmp_path, values):
    folder = tmp_path / "empty"
    folder.mkdir()
    edge = np.zeros((96, 96), np.uint16)
    edge[:4, :4] = 1001 if values == "coded" else 1  # the crop of 64 px misses it
    Image.fromarray(edge).save(folder / "edge.png")
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(folder / "none.png")
    recipe = write(tmp_path, masks=str(folder), values=values, allow_empty=True)
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert [decode_labels(row["mask"]["bytes"], "mask").max() for row in rows] == [0, 0]
    told = ask("verify", tmp_path / "run", "--regenerate", 2)
    assert told.count(": exact") == 2 and "sound" in told
    ask("report", tmp_path / "run")
