"""Splits and structure of real images: told by names as `datasets` does, and never guessed."""

import numpy as np
import pytest
import webdataset
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from datasets.data_files import SPLIT_KEYWORDS

from factory.core.errors import SourceError
from factory.core.images import encode_image
from factory.core.notes import listen
from factory.data.images import list_classes, list_images
from factory.data.images.splits import KEYWORDS
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests.data.test_sources import make_pixels, write_rows


def write_images(root, *names):
    """Writes an image at each path below root, all different."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(make_pixels(number, 32), "png"))
    return root


def list_told(root, **options):
    """Returns the images and what was said."""
    with listen() as notes:
        return list_images(root, **options), notes


def test_the_words_are_those_of_datasets():
    assert {str(split): words for split, words in SPLIT_KEYWORDS.items()} == {
        split: [*words] for split, words in KEYWORDS.items()
    }


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("training", "testing"),
        ("Train", "Test"),
        ("train_patches", "eval"),
        ("01-train", "evaluation-set"),
        ("train", "dev"),
        ("train", "val"),
        ("train", "valid 2"),
    ],
)
def test_split_folders_are_no_classes(tmp_path, train, test):
    names = [f"{s}/{c}/{n}.png" for s in (train, test) for c in ("normal", "tumor") for n in "abc"]
    images, notes = list_told(write_images(tmp_path / "P", *names))
    assert list_classes(images) == ("normal", "tumor")
    assert [image.key for image in images] == sorted(n for n in names if n.startswith(train))
    (note,) = notes
    assert "its split train is read, 6 images; left out: " in note
    assert note.endswith(" 6")
    assert len(list_images(tmp_path / "P" / test)) == 6
    train_classifier(
        tmp_path / "P", tmp_path / "out", ClassifierSettings(image_size=32, force=True)
    )


@pytest.mark.parametrize("names", [("test", "validation"), ("eval", "dev"), ("test", "tumor")])
def test_splits_without_train_are_refused_and_named(tmp_path, names):
    files = [f"{name}/{c}/{n}.png" for name in names for c in ("a", "b") for n in "xy"]
    root = write_images(tmp_path / "P", *files)
    with pytest.raises(SourceError, match=r"splits test.* and no `train`: name one, e\.g\. .*/P/"):
        list_images(root)
    assert len(list_images(root / names[0])) == 4


@pytest.mark.parametrize(
    ("names", "classes", "count"),
    [
        (["normal/train/a.png", "normal/test/a.png", "tumor/train/a.png"], ("normal", "tumor"), 2),
        (["images/train/n/a.png", "images/train/t/a.png", "images/test/n/a.png"], ("n", "t"), 2),
        (["n/train/a.png", "n/test/a.png"], ("n",), 1),
        (["train/a.png", "test/a.png"], (), 1),
        (["n/train_1.png", "n/train_2.png", "t/train_3.png", "t/test_4.png"], ("n", "t"), 3),
        (["train/n/a.png", "train/t/a.png"], ("n", "t"), 2),
        (["test/n/a.png", "test/t/a.png"], ("n", "t"), 2),
        (["n/test_1.png", "n/test_2.png", "t/test_3.png"], ("n", "t"), 3),
        (["n/contest.png", "testis/a.png", "trainable/a.png"], ("n", "testis", "trainable"), 3),
    ],
)
def test_where_split_words_stand(tmp_path, names, classes, count):
    images = list_images(write_images(tmp_path / "P", *names))
    assert (list_classes(images), len(images)) == (classes, count)


def test_file_names_that_sometimes_speak_of_splits_are_read_and_told(tmp_path):
    root = write_images(tmp_path / "P", "n/train_1.png", "n/test_2.png", "t/other.png")
    images, notes = list_told(root)
    assert len(images) == 3
    assert "some file names speak of splits (test, train), others do not" in notes[0]


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001", "data/test-00000-of-00001"),
        ("train", "test"),
        ("x_train", "x_test"),
        ("train/0", "validation/0"),
        ("deep/training-data/0", "deep/dev/0"),
        ("data/train-00000-of-00001", "data/fold1-00000-of-00001"),
        ("data/train-00000-of-00001", "rejected/0"),
    ],
)
def test_splits_of_parquet_and_of_datasets(tmp_path, train, test):
    write_rows(tmp_path / f"{train}.parquet", ["a", "a"])
    write_rows(tmp_path / f"{test}.parquet", ["b", "b", "b"])
    images, notes = list_told(tmp_path)
    assert list_classes(images) == ("a",)
    assert "its split train is read, 2 images; left out: " in notes[0]
    assert notes[0].endswith(" 3")
    found = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(found["label"]) == {"a"}


def test_splits_of_parquet_without_train_are_refused(tmp_path):
    for name in ("test", "validation"):
        write_rows(tmp_path / f"data/{name}-00000-of-00001.parquet", ["a"])
    with pytest.raises(SourceError, match=r"splits test, validation and no `train`"):
        list_images(tmp_path)
    assert len(list_images(tmp_path / "data/test-00000-of-00001.parquet")) == 1


def test_splits_of_tars_and_saved_sets(tmp_path):
    for split, label in (("train", "a"), ("test", "b")):
        path = tmp_path / "tars" / f"{split}-000000.tar"
        path.parent.mkdir(exist_ok=True)
        with webdataset.TarWriter(str(path), mtime=0) as writer:
            data = {"png": encode_image(make_pixels(0), "png"), "cls": label}
            writer.write({"__key__": "0", **data})
        rows = {"image": [{"bytes": data["png"], "path": None}], "label": [label]}
        Dataset.from_dict(rows).cast_column("image", ImageFeature()).save_to_disk(
            tmp_path / "saved" / split
        )
    for name in ("tars", "saved"):
        images, notes = list_told(tmp_path / name)
        assert list_classes(images) == ("a",)
        assert "its split train is read, 1 images; left out: test 1" in notes[0]


# --- structure -----------------------------------------------------------------------------------


@pytest.mark.stranger
@pytest.mark.parametrize("below", ["", "x/"])
def test_folders_in_classes_are_patients_or_slides(tmp_path, below):
    names = [f"{c}/{s}/{below}{n}.png" for c in ("n", "t") for s in ("s1", "s2") for n in "ab"]
    images, notes = list_told(write_images(tmp_path, *names))
    assert [(image.class_name, image.group) for image in images] == [
        (c, s) for c in "nt" for s in ("s1", "s1", "s2", "s2")
    ]
    assert "read as 2 classes (n, ...) and, in them, 2 patients or slides (s1, ...)" in notes[0]
    grouped = list_images(tmp_path, group_pattern=r"([ab])")
    assert [image.group for image in grouped] == ["a", "b"] * 4
    assert list_classes(grouped) == ("n", "t")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n/a.png", "t/s1/a.png"], r"t/s1/a\.png lies in a folder .* n/a\.png does not, so that"),
        (["n/a.png", "n/s1/a.png", "t/s1/a.png"], "s1 may be a class or a patient"),
        (["images/n/a.png", "images/t/a.png"], r"images is its only folder.* give .*/P/images if"),
        (["train/x/n/a.png", "train/x/t/a.png"], r"x is its only folder.* give .*/P/train/x if"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path, names, message):
    root = write_images(tmp_path / "P", *names)
    with pytest.raises(SourceError, match=message):
        list_images(root)


def test_plain_class_folders_are_what_they_were(tmp_path):
    root = write_images(tmp_path, "n/a.png", "t/b.png", "c.png")
    images, notes = list_told(root)
    assert [(i.key, i.class_name, i.group) for i in images] == [
        ("c.png", None, None),
        ("n/a.png", "n", None),
        ("t/b.png", "t", None),
    ]
    assert np.array_equal(images[1].read_pixels(), make_pixels(0, 32))
    assert notes == []


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/train/normal/1.png", "train/test/tumor/2.png"),
            "names splits at two levels, train and t",
        ),
        (
            ("fold1/train/normal/1.png", "fold1/val/tumor/2.png", "fold2/train/normal/3.png"),
            "the split train stands between fold1 and normal, and both may be the class",
        ),
        (
            tuple(f"slide{s}/{name}/{s}.png" for s in (1, 2, 3) for name in ("normal", "tumor")),
            "each of its 3 folders .* holds the same .normal, tumor.",
        ),
        (
            ("normal/1.png", "tumor/2.png", "training artefact/3.png"),
            "training artefact may be the split train or a class, since normal",
        ),
    ],
)
def test_folders_that_look_like_splits_or_classes_are_refused(tmp_path, names, message):
    with pytest.raises(SourceError, match=message):
        list_images(write_images(tmp_path / "P", *names))


def test_a_class_above_its_splits_is_a_class(tmp_path):
    names = [f"{name}/{split}/1.png" for name in ("normal", "tumor") for split in ("train", "test")]
    images = list_images(write_images(tmp_path / "P", *names))
    assert [image.class_name for image in images] == ["normal", "tumor"]
