"""The benchmark of retrieval: captions held out whole, real patches captioned by measurement."""

import sys

import numpy as np

from factory.catalog.captions.writing import bin_attributes
from factory.catalog.catalog import load_catalogs
from factory.core.images import encode_image
from factory.core.stains import measure_attributes
from factory.data.images import list_images
from tests import ASSETS, ROOT

PATCHES = ASSETS / "pcam" / "test"
sys.path.append(str(ROOT / "tests" / "benchmarks"))  # scripts import each other by bare names

from retrieval import TOLD, caption_real, split_captions, write_pairs  # noqa: E402

GRID = load_catalogs().find_captions("he-attributes")


def test_captions_are_held_out_with_all_their_images(tmp_path):
    draw = np.random.default_rng(0)
    images = [encode_image(draw.integers(0, 256, (8, 8, 3), np.uint8), "png") for _ in range(200)]
    captions = [f"{'Caption' if row % 2 else 'caption'} {row // 4}" for row in range(200)]
    source = write_pairs(tmp_path / "all.parquet", list(zip(images, captions, strict=True)))
    parts = [list_images(path) for path in split_captions(list_images(source), tmp_path)]
    train, held_out = ({str(image.caption).lower() for image in part} for part in parts)
    assert not train & held_out
    assert len(parts[0]) + len(parts[1]) == 200
    assert 20 < len(parts[1]) < 90


def test_real_patches_get_captions_of_what_is_measured(tmp_path):
    path = caption_real(PATCHES, tmp_path / "real.parquet", GRID, 20, 0)
    images = list_images(path)
    pixels = np.stack([image.read_pixels() for image in images])
    assert 15 < len(pixels) <= 20
    assert pixels.shape[1:] == (64, 64, 3)
    told = 0
    for image, values in zip(images, bin_attributes(GRID, measure_attributes(pixels)), strict=True):
        for name in TOLD:
            wordings = GRID.attributes[name][values[name]]
            assert any(words in str(image.caption) for words in wordings), (image.caption, name)
            told += 1
    assert told == 3 * len(images)
