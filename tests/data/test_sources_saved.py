"""Folders that `datasets` wrote with save_to_disk, as real images, without loading `datasets`."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from factory.core.errors import SourceError
from factory.data.images import list_classes, list_images
from tests.data.test_sources import make_pixels, refuse_contents


def make_dataset(count, first=0):
    features = {
        "image": ImageFeature(),
        "label": ClassLabel(names=["normal", "tumor"]),
        "text": Value("string"),
        "patient": Value("int64"),
    }
    numbers = range(first, first + count)
    rows = {
        "image": [Image.fromarray(make_pixels(number)) for number in numbers],
        "label": [number % 2 for number in numbers],
        "text": [f"patch {number}" for number in numbers],
        "patient": [number // 2 for number in numbers],
    }
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture
def saved(tmp_path):
    make_dataset(5).save_to_disk(tmp_path / "set", num_shards=2)
    return tmp_path / "set"


def test_rows_of_all_shards_in_order(saved):
    images = list_images(saved, group_column="patient")
    assert [image.key for image in images] == [
        *(f"data-00000-of-00002.arrow#{row}" for row in range(3)),
        *(f"data-00001-of-00002.arrow#{row}" for row in range(2)),
    ]
    assert [image.class_name for image in images] == ["normal", "tumor"] * 2 + ["normal"]
    assert [image.caption for image in images] == [f"patch {n}" for n in range(5)]
    assert [image.group for image in images] == ["0", "0", "1", "1", "2"]
    for number, image in reversed([*enumerate(images)]):
        assert np.array_equal(image.read_pixels(), make_pixels(number))


def test_the_same_as_its_parquet(saved, tmp_path):
    make_dataset(5).to_parquet(tmp_path / "set.parquet")
    rows = list_images(tmp_path / "set.parquet")
    expected = [(row.read_bytes(), row.class_name, row.caption) for row in rows]
    found = [(each.read_bytes(), each.class_name, each.caption) for each in list_images(saved)]
    assert found == expected


def test_a_selection_is_saved_as_selected(tmp_path):
    chosen = make_dataset(6).filter(lambda row: row["label"] == 1).select([2, 0])
    chosen.save_to_disk(tmp_path / "set")
    images = list_images(tmp_path / "set")
    assert [image.caption for image in images] == ["patch 5", "patch 1"]
    assert np.array_equal(images[0].read_pixels(), make_pixels(5))


def test_images_that_were_files_are_read(tmp_path):
    Image.fromarray(make_pixels(3)).save(tmp_path / "a.png")
    features = Features({"image": ImageFeature()})
    Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features).save_to_disk(
        tmp_path / "set"
    )
    (image,) = list_images(tmp_path / "set")
    assert image.class_name is None
    assert np.array_equal(image.read_pixels(), make_pixels(3))


def test_one_arrow_file(saved):
    images = list_images(saved / "data-00001-of-00002.arrow")
    assert [image.caption for image in images] == ["patch 3", "patch 4"]


def test_another_set_at_the_same_path_is_read_anew(saved):
    assert np.array_equal(list_images(saved)[0].read_pixels(), make_pixels(0))
    shutil.rmtree(saved)
    make_dataset(4, first=10).save_to_disk(saved, num_shards=2)
    images = list_images(saved)
    assert np.array_equal(images[0].read_pixels(), make_pixels(10))


# --- splits --------------------------------------------------------------------------------------


def save_splits(folder, **counts):
    parts = {name: make_dataset(count, 10 * count) for name, count in counts.items()}
    DatasetDict(parts).save_to_disk(folder)
    return folder


def test_train_is_taken_of_several_splits(tmp_path):
    images = list_images(save_splits(tmp_path / "set", train=3, test=2))
    assert [image.caption for image in images] == ["patch 30", "patch 31", "patch 32"]
    assert images[0].key == "train/data-00000-of-00001.arrow#0"
    assert len(list_images(tmp_path / "set" / "test")) == 2


def test_the_only_split_is_taken(tmp_path):
    assert len(list_images(save_splits(tmp_path / "set", validation=2))) == 2


def test_splits_without_train_are_named(tmp_path):
    save_splits(tmp_path / "set", fold1=1, fold2=1)
    with pytest.raises(SourceError, match=r"splits fold1, fold2 and no `train`: .* sub folder"):
        list_images(tmp_path / "set")


def test_several_saved_sets_in_a_folder_are_named(tmp_path):
    for name in "ab":
        make_dataset(1).save_to_disk(tmp_path / name)
    with pytest.raises(SourceError, match=r"holds several data sets \(a, b\)"):
        list_images(tmp_path)


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("image_column", "no column 'nope': it has image, label, text, patient"),
        ("label_column", "no column 'nope'"),
        ("group_column", "no column 'nope'"),
        ("caption_column", "no column 'nope'"),
        ("group_pattern", "give group_column"),
    ],
)
def test_wrong_columns(saved, option, message):
    with pytest.raises(SourceError, match=message):
        list_images(saved, **{option: "nope"})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"_data_files": [{}]}', "\x00"])
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_damaged_descriptions(saved, name, content):
    (saved / name).write_text(content)
    with pytest.raises(SourceError, match=name):
        list_images(saved)


def test_an_arrow_file_that_is_missing_cut_or_no_arrow(saved):
    path = saved / "data-00001-of-00002.arrow"
    images, whole = list_images(saved), path.read_bytes()
    broken = (b"", b"ARROW1", whole[: len(whole) // 2], whole[:100], b"\x07" * len(whole))
    message = r"data-00001-of-00002\.arrow: not a readable arrow"
    refuse_contents(path, saved, images[4], broken, message)
    with pytest.raises(SourceError, match=r"data-00001-of-00002\.arrow"):
        list_images(saved)


def test_arrow_files_of_no_saved_set(saved):
    (saved / "state.json").unlink()
    with pytest.raises(SourceError, match=r"no state\.json"):
        list_images(saved)


def test_a_set_of_an_old_version_is_refused(saved):
    state = json.loads((saved / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(SourceError, match="old version of `datasets`"):
        list_images(saved)


def test_datasets_and_torch_are_not_loaded(saved):
    """`factory validate` lists images too, and must answer at once."""
    code = (
        "import sys; from pathlib import Path; from factory.data.images import list_images\n"
        "images = list_images(Path(sys.argv[1])); images[0].read_pixels()\n"
        "print(len(images), *sorted({'datasets', 'torch', 'webdataset'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["5"]


def test_classes(saved):
    assert list_classes(list_images(saved)) == ("normal", "tumor")
