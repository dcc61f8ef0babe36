"""Objects of masks as COCO, YOLO and OME-TIFF labels: read back, they are the rows' masks."""

import csv
import json
from typing import get_args

import numpy as np
import pytest
import yaml
from PIL import Image

from factory.api.words import ExportFormat, ObjectFormat
from factory.core.errors import InputError
from factory.core.notes import listen
from factory.data.label_maps import decode_labels
from factory.data.objects import find_objects
from factory.engine.dataset import open_dataset
from factory.publish.annotations import FORMATS, export_annotations
from factory.publish.annotations.coco import encode_runs
from factory.publish.merge import MergeSettings, merge_sets
from tests import ASSETS
from tests.running import ask, read_rows, run, write_recipe

LICENCE = {"id": "cc-by-4.0", "date_read": "2026-11-26", "attribution": ["A. Mahbod et al."]}
KINDS = {"glands": {1: "gland", 2: "tumour gland"}, "objects": {1: "nucleus"}}


def make(folder, kind):
    """A run of glands (connected parts) or of nuclei (instances)."""
    masks = {"masks": str(ASSETS / "masks" / kind), "palette": KINDS[kind], "licence": LICENCE}
    told = {"values": "objects"} if kind == "objects" else {}
    recipe = write_recipe(
        folder,
        name="masks",
        generator={"model": "fake", "width": 64, "height": 64, "batch_size": 4},
        conditions=[{"kind": "mask", "per_mask": 1, **masks, **told}],
        filters=[],
        budget={"attempts": 1},
    )
    run(recipe, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def decode_runs(segmentation):
    """Decodes COCO's run lengths as pycocotools does where it is here, else by their definition."""
    height, width = segmentation["size"]
    try:
        from pycocotools import mask
    except ImportError:
        values = np.arange(len(segmentation["counts"])) % 2
        flat = np.repeat(values, segmentation["counts"])
        return flat.reshape(width, height).T.astype(bool)
    return mask.decode(mask.frPyObjects(segmentation, height, width)).astype(bool)


def list_true(row, kind):
    """The objects of a row's mask: (id, mask) of each."""
    labels = decode_labels(row["mask"]["bytes"], "mask")
    found = find_objects(labels, kind == "objects", least=1)
    return [(int(one), found.labels == n) for n, one in enumerate(found.ids, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_coco_holds_each_object_exactly(runs, tmp_path, kind):
    told = export_annotations(open_dataset(str(runs[kind])), tmp_path / "out", "coco")
    coco = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert set(coco) == {"info", "licenses", "categories", "images", "annotations"}
    names = {each["id"]: each["name"] for each in coco["categories"]}
    assert sorted(names.values()) == sorted(KINDS[kind].values())
    rows = {row["sample_id"]: row for row in read_rows(runs[kind])}
    assert len(coco["images"]) == len(rows) == told["train"]["images"]
    numbers = [each["id"] for each in coco["annotations"]]
    assert len(set(numbers)) == len(numbers) == sum(told["train"]["objects"].values()) > len(rows)
    for image in coco["images"]:
        row = rows[image["sample_id"]]
        assert (tmp_path / "out/train" / image["file_name"]).read_bytes() == row["image"]["bytes"]
        found = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
        true = list_true(row, kind)
        assert len(found) == len(true)
        for entry, (identifier, mask) in zip(found, true, strict=True):
            assert np.array_equal(decode_runs(entry["segmentation"]), mask)
            assert names[entry["category_id"]] == KINDS[kind][identifier]
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert entry["bbox"] == box
            assert (entry["area"], entry["iscrowd"]) == (mask.sum(), 0)


def test_runs_of_masks_that_reach_the_borders_and_have_holes():
    generator = np.random.default_rng(3)
    for share in (0.05, 0.5, 1.0):
        mask = generator.random((5, 7)) < share
        mask[2, 3] = True
        columns = np.flatnonzero(mask.any(0))
        first = int(columns[0])
        runs = encode_runs(mask[:, first : columns[-1] + 1], first, 7)
        assert sum(runs["counts"]) == mask.size
        assert np.array_equal(decode_runs(runs), mask)


@pytest.mark.parametrize("kind", KINDS)
def test_yolo_boxes_are_shares_that_span_the_objects(runs, tmp_path, kind):
    with listen() as heard:
        export_annotations(open_dataset(str(runs[kind])), tmp_path / "out", "yolo")
    assert any("no images for val" in each for each in heard)
    described = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert described["train"] == "images/train"
    for row in read_rows(runs[kind]):
        name = row["sample_id"]
        image = tmp_path / "out/images/train" / row["image"]["path"]
        assert image.read_bytes() == row["image"]["bytes"]
        lines = (tmp_path / f"out/labels/train/{name}.txt").read_text().splitlines()
        true = list_true(row, kind)
        for line, (identifier, mask) in zip(lines, true, strict=True):
            number, *numbers = line.split()
            assert described["names"][int(number)] == KINDS[kind][identifier]
            cx, cy, width, height = (float(each) for each in numbers)
            assert all(0 < each <= 1 for each in (cx, cy, width, height))
            y, x = np.nonzero(mask)
            box = np.array([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]) * 64
            assert np.allclose(box, [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_ome_labels_have_the_values_of_the_mask(runs, tmp_path, kind):
    tifffile = pytest.importorskip("tifffile")
    for out in ("one", "two"):
        export_annotations(open_dataset(str(runs[kind])), tmp_path / out, "ome-labels")
    for row in read_rows(runs[kind]):
        name = f"{row['sample_id']}.labels.ome.tif"
        path = tmp_path / "one/train" / name
        assert path.read_bytes() == (tmp_path / "two/train" / name).read_bytes()
        assert path.with_name(row["image"]["path"]).read_bytes() == row["image"]["bytes"]
        with tifffile.TiffFile(path) as opened:
            assert opened.is_ome
            assert opened.series[0].axes == "YX"
            labels = decode_labels(row["mask"]["bytes"], "mask")
            assert np.array_equal(opened.asarray(), labels)
            assert all(each in opened.ome_metadata for each in KINDS[kind].values())


def test_counts_and_origin_stand_beside_them(runs, tmp_path):
    printed = ask("export", runs["glands"], "--to", "coco", "--out", tmp_path / "out")
    assert "connected parts of each id" in printed
    with (tmp_path / "out/counts.csv").open(newline="") as file:
        counts = list(csv.DictReader(file))
    rows = read_rows(runs["glands"])
    assert len(counts) == 2 * len(rows)
    for row in rows:
        true = list_true(row, "glands")
        for each in (each for each in counts if each["sample_id"] == row["sample_id"]):
            masks = [mask for one, mask in true if KINDS["glands"][one] == each["name"]]
            assert int(each["count"]) == len(masks)
            assert int(each["area_px"]) == sum(int(mask.sum()) for mask in masks)
    origin = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (origin["run"], origin["recipe"], origin["format"]) == ("run", "masks", "coco")
    assert origin["recipe_sha256"] == {rows[0]["recipe_sha256"]: len(rows)}
    again = ask("export", runs["glands"], "--to", "yolo", "--out", tmp_path / "out", code=2)
    assert "not empty" in again


def test_rows_without_a_mask_are_left_out_and_counted(runs, tmp_path):
    plain = tmp_path / "plain"
    run(write_recipe(plain, filters=[]), plain / "run")
    with pytest.raises(InputError, match="no row has a mask"):
        export_annotations(open_dataset(str(plain / "run")), tmp_path / "none", "coco")
    assert not (tmp_path / "none").exists()
    for index in range(9):
        path = tmp_path / "real/gland" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    merge_sets(tmp_path / "real", [runs["glands"]], tmp_path / "set", MergeSettings())
    with listen() as heard:
        told = export_annotations(open_dataset(str(tmp_path / "set")), tmp_path / "out", "coco")
    assert any("9 rows have no mask" in each for each in heard)
    assert told["train"]["images"] == len(read_rows(runs["glands"]))
    origin = json.loads((tmp_path / "out/provenance.json").read_text())
    assert sum(origin["without_mask"].values()) == 9


def test_each_format_that_the_command_takes_is_written_by_one_class():
    assert set(FORMATS) == set(get_args(ObjectFormat)) < set(get_args(ExportFormat))
