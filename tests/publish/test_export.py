"""Exporting: ImageFolder files and reproducible tars, image bytes as they are stored."""

import csv
import json
import shutil
import time

import pytest
from click.testing import CliRunner

from factory.cli import main
from factory.core.errors import InputError
from factory.core.hashing import hash_bytes
from factory.core.images import encode_image
from factory.engine.dataset import open_dataset
from factory.publish.export import export_images, export_tars
from factory.publish.merge import MergeSettings, merge_sets
from tests.data.test_sources import make_pixels
from tests.running import read_rows, run, write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    run(write_recipe(folder, output={"formats": ["parquet", "webdataset"]}), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def merged(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    for index in range(9):
        path = folder / "real" / ("normal" if index % 2 else "tumor") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(make_pixels(index // 2 * 2, 32), "png"))
    merge_sets(folder / "real", [made], folder / "out", MergeSettings(validation=0.0))
    return folder / "out"


def test_imagefolder_holds_the_stored_bytes_by_class(made, tmp_path):
    counts = export_images(open_dataset(str(made)), tmp_path / "out")
    assert counts == {"train": {"normal": 10, "tumor": 13}}
    for row in read_rows(made):
        path = tmp_path / "out" / "train" / row["class_name"] / f"{row['sample_id']}.webp"
        assert path.read_bytes() == row["image"]["bytes"]
    assert len(list((tmp_path / "out").rglob("*.webp"))) == 23
    with (tmp_path / "out" / "rows.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [hash_bytes((tmp_path / "out" / row["file_name"]).read_bytes()) for row in listed] == [
        row["image_sha256"] for row in listed
    ]


def test_tars_are_those_of_the_run_whenever_they_are_written(made, tmp_path):
    export_tars(open_dataset(str(made)), tmp_path / "one", 10_000)
    time.sleep(1.1)
    export_tars(open_dataset(str(made)), tmp_path / "two", 10_000)
    first = (tmp_path / "one" / "train-00000.tar").read_bytes()
    assert first == (tmp_path / "two" / "train-00000.tar").read_bytes()
    assert first == (made / "webdataset" / "train-00000.tar").read_bytes()
    export_tars(open_dataset(str(made)), tmp_path / "many", 10)
    assert len(list((tmp_path / "many").iterdir())) == 3


def test_a_merged_set_keeps_its_splits_and_loses_no_repeated_image(merged, tmp_path):
    """Byte-identical real images have one name; all of them are exported all the same."""
    rows = read_rows(merged)
    by_class = export_images(open_dataset(str(merged)), tmp_path / "images")
    counts = {split: sum(each.values()) for split, each in by_class.items()}
    assert set(counts) == {"train", "test"}
    assert sum(counts.values()) == len(rows) == 9 + 23
    files = [*(tmp_path / "images").rglob("*.png"), *(tmp_path / "images").rglob("*.webp")]
    assert sorted(hash_bytes(path.read_bytes()) for path in files) == sorted(
        row["image_sha256"] for row in rows
    )
    assert export_tars(open_dataset(str(merged)), tmp_path / "tars", 1000) == counts
    from factory.data.images import list_images

    found = [
        image for split in counts for image in list_images(tmp_path / "tars" / f"{split}-00000.tar")
    ]
    assert sorted(hash_bytes(image.read_bytes()) for image in found) == sorted(
        row["image_sha256"] for row in rows
    )


def test_images_without_a_class_need_a_name(tmp_path):
    (tmp_path / "captions.txt").write_text("one\ntwo\n")
    block = {"kind": "caption", "captions": "captions.txt", "count": 4}
    run(write_recipe(tmp_path, conditions=[block], filters=[]), tmp_path / "run")
    stored = open_dataset(str(tmp_path / "run"))
    with pytest.raises(InputError, match="has no class"):
        export_images(stored, tmp_path / "out")
    assert export_images(stored, tmp_path / "out", "images") == {"train": {"images": 4}}
    assert len(list((tmp_path / "out" / "train" / "images").iterdir())) == 4


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_a_class_that_is_no_folder_is_refused(tmp_path, name):
    block = {"kind": "class", "per_class": {name: 1}}
    run(write_recipe(tmp_path, conditions=[block], filters=[]), tmp_path / "run")
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        export_images(open_dataset(str(tmp_path / "run")), tmp_path / "out")


def test_the_command_and_what_it_refuses(made, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(main, ["export", *(str(each) for each in arguments)])

    result = call(made, "--to", "imagefolder", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "train: 23 images" in result.stdout
    again = call(made, "--to", "webdataset", "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "not empty" in again.stderr
    shutil.rmtree(tmp_path / "out" / "train")
    assert call(made, "--to", "zip", "--out", tmp_path / "new").exit_code == 2


def test_a_split_without_a_class_is_warned_of(tmp_path, made):
    """ImageFolder numbers the classes that it finds."""
    (tmp_path / "real" / "normal").mkdir(parents=True)
    for index in range(6):
        data = encode_image(make_pixels(index, 32), "png")
        (tmp_path / "real" / "normal" / f"{index}.png").write_bytes(data)
    merge_sets(tmp_path / "real", [made], tmp_path / "set", MergeSettings())
    arguments = ["export", str(tmp_path / "set"), "--to", "imagefolder", "--out"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "out"), "--json"])
    assert "not every split has every class" in result.stderr
    assert json.loads(result.stdout)["images"]["train"]["tumor"] == 13
