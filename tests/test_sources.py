"""Real images: ImageFolder and parquet give the same list."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature

from factory.errors import SourceError
from factory.images import encode_image
from factory.sources import fit_image, list_classes, list_images


def make_pixels(seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["normal", "tumor"]):
        (tmp_path / name).mkdir()
        for index in range(3):
            data = encode_image(make_pixels(10 * number + index), "png")
            (tmp_path / name / f"P{index}_valid_{index}.png").write_bytes(data)
    return tmp_path


def test_image_folder(folder):
    images = list_images(folder, group_pattern=r"^(P\d)_")
    assert list_classes(images) == ("normal", "tumor")
    assert [image.key for image in images][:2] == ["normal/P0_valid_0.png", "normal/P1_valid_1.png"]
    assert [image.group for image in images] == ["P0", "P1", "P2"] * 2
    assert np.array_equal(images[3].read_pixels(), make_pixels(10))


def test_parquet_of_datasets_gives_the_same(folder, tmp_path):
    images = list_images(folder)
    rows = {
        "image": [{"bytes": image.read_bytes(), "path": None} for image in images],
        "label": [0, 0, 0, 1, 1, 1],
        "patient": ["a", "b", "c", "a", "b", "c"],
    }
    names = ClassLabel(names=["normal", "tumor"])
    features = Features({"image": ImageFeature(), "label": names, "patient": Value("string")})
    path = tmp_path / "set.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    again = list_images(path, group_column="patient")
    assert [image.class_name for image in again] == [image.class_name for image in images]
    assert [image.group for image in again] == ["a", "b", "c"] * 2
    assert [image.read_bytes() for image in again] == [image.read_bytes() for image in images]


def test_metadata_csv_gives_groups(folder):
    (folder / "metadata.csv").write_text("file_name,slide\nnormal/P0_valid_0.png,S9\n")
    assert list_images(folder, group_column="slide")[0].group == "S9"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_pattern": r"^Q(\d)"}, "finds no group"),
        ({"group_column": "patient"}, "metadata.csv"),
    ],
)
def test_wrong_groups_say_what_to_do(folder, change, message):
    with pytest.raises(SourceError, match=message):
        list_images(folder, **change)


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        list_images(tmp_path / "missing")
    with pytest.raises(SourceError, match="holds no images"):
        list_images(tmp_path)


def test_crop_keeps_scale_and_resize_does_not():
    pixels = make_pixels(0, 32)
    assert np.array_equal(fit_image(pixels, 16, 16, "crop"), pixels[8:24, 8:24])
    assert not np.array_equal(fit_image(pixels, 16, 16, "resize"), pixels[8:24, 8:24])
    assert fit_image(make_pixels(0, 8), 16, 24, "crop").shape == (24, 16, 3)
