"""The blocks of the page "Load it", run as they stand there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from factory.core.images import encode_image
from tests import ROOT
from tests.data.test_sources import make_pixels
from tests.running import call, read_rows, run, write_recipe

PAGE = ROOT / "docs" / "guides" / "load.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
COUNT = 23


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the finished run and the real patches that the blocks name."""
    folder = tmp_path_factory.mktemp("place")
    changes = {
        "generator": {"width": 64, "height": 64},
        "filters": [{"kind": "tissue"}],
        "output": {"formats": ["parquet", "webdataset"]},
    }
    recipe = write_recipe(folder / "recipes", **changes)
    assert run(recipe, folder / "runs" / "quickstart").exit_code == 0
    for patient in range(8):
        path = folder / "PATCHES" / "train" / ("tumor" if patient % 2 else "normal")
        path.mkdir(parents=True, exist_ok=True)
        for index in range(3):
            pixels = make_pixels(10 * patient + index, 64)
            (path / f"P{patient}_{index}.png").write_bytes(encode_image(pixels, "png"))
    return folder


@pytest.fixture
def here(place, monkeypatch, tmp_path):
    from datasets import config

    monkeypatch.chdir(place)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    return place


def run_block(word):
    """Runs the only block that names `word`, and the shell block before it; returns its names."""
    found = [number for number, (_, code) in enumerate(BLOCKS) if word in code]
    assert len(found) == 1, f"{word}: {len(found)} blocks"
    language, code = BLOCKS[found[0] - 1]
    if found[0] and language == "bash":
        for line in code.replace("\\\n", " ").strip().splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "factory"
            result = call(*arguments)
            assert result.exit_code == 0, result.output
    names = {}
    exec(compile(BLOCKS[found[0]][1], str(PAGE), "exec"), names)
    return names


def test_there_are_as_many_blocks_as_tests():
    tests = [name for name in globals() if name.startswith("test_the_block")]
    assert len([code for language, code in BLOCKS if language == "python"]) == len(tests) == 6


def test_the_block_of_datasets(here):
    found = run_block("streaming=True")
    assert len(found["data"]) == COUNT
    assert found["first"]["image"].size == (64, 64)
    assert found["name"] == found["first"]["class_name"]
    ids = {row["sample_id"] for row in read_rows(here / "runs" / "quickstart")}
    assert {row["sample_id"] for row in found["stream"]} == ids


def test_the_block_of_webdataset(here):
    found = run_block("import webdataset")
    rows = {row["sample_id"]: row for row in read_rows(here / "runs" / "quickstart")}
    assert len(found["samples"]) == COUNT
    for image, label, text, record in found["samples"]:
        row = rows[record["sample_id"]]
        assert image.size == (64, 64)
        assert (label, text) == (row["label"], row["prompt"])
        assert record["scores"] == row["scores"]
        assert not {"descriptor", "accepted", "series"} & set(record)


def test_the_block_of_open_clip(here, monkeypatch):
    from open_clip_train import data

    monkeypatch.setattr(data, "tar_file_expander", data.tar_file_expander)  # put back afterwards
    found = run_block("open_clip_train")
    assert found["images"].shape == (4, 3, 64, 64)
    assert found["tokens"].shape == (4, 77)


def test_the_block_of_torchvision(here):
    found = run_block("ImageFolder(")
    folder = found["folder"]
    assert len(folder) == COUNT
    assert folder.classes == ["normal", "tumor"]
    stored = {f"{row['sample_id']}.webp": row for row in read_rows(here / "runs" / "quickstart")}
    for path, label in folder.samples:
        row = stored[Path(path).name]
        assert Path(path).read_bytes() == row["image"]["bytes"]
        assert folder.classes[label] == row["class_name"]


def test_the_block_of_timm(here):
    found = run_block("timm.data")
    assert len(found["train"]) == COUNT
    assert np.asarray(found["image"]).shape == (64, 64, 3)
    assert found["label"] == read_rows(here / "runs" / "quickstart")[0]["label"]


def test_the_block_of_merge(here):
    found = run_block('merged/quickstart")')
    both = found["both"]
    assert set(both) == {"train", "validation", "test"}
    assert sum(map(len, both.values())) == 24 + COUNT
    assert len(found["real"]) == len(both["train"]) - COUNT
    assert not any(both["test"]["is_synthetic"])
