"""Conditions of real images that are encoded here: planned without, kept by content, told of."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from factory.core.errors import RecipeError, SourceError
from factory.data.images import list_images
from factory.data.streams import Embedding
from factory.engine.dataset import open_dataset
from factory.engine.plan import build_plan
from factory.models.encoders import load_encoder
from factory.models.encoders.color_texture import ColorTextureEncoder
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.conditions.encoded import cut_grid
from factory.recipe.file import load_recipe
from factory.recipe.judge_overlap import find_circles
from factory.recipe.licences import collect_recipe_terms, collect_summary_terms
from tests import ASSETS
from tests.running import call, read_rows, run

BLOCK = {"kind": "embedding", "images": "real", "encoder": "color-texture", "per_row": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, image in enumerate(list_images(ASSETS / "pcam" / "train")[::4]):
        target = tmp_path / "real" / str(image.class_name) / f"{number}.webp"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.path, target)
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(folder: Path, *, filters: Any = (), taken: Any = None, **block: Any) -> Path:
    (folder / "models").mkdir(exist_ok=True)
    entry = {"id": "asked", "base": "fake", **(taken or {})}
    (folder / "models" / "asked.yaml").write_text(yaml.safe_dump(entry))
    recipe = {
        "name": "encoded",
        "catalogs": ["."],
        "generator": {"model": "asked", "batch_size": 4},
        "conditions": [{**BLOCK, **block}],
        "filters": list(filters),
        "workers": {"executor": "local"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_images_are_encoded_once_and_rows_are_made_again_without_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    inner = ColorTextureEncoder.encode

    def encode(self: Any, images: Any) -> Any:
        encoded.append(len(images))
        return inner(self, images)

    monkeypatch.setattr(ColorTextureEncoder, "encode", encode)
    path = write(folder)
    loaded = load_recipe(path)
    check_recipe(loaded)
    series = build_plan(loaded.recipe, loaded.session).series[0]
    assert encoded == [] and set(series.class_names) == {"normal", "tumor"}
    series.request_at(0)
    assert sum(encoded) == 1  # nothing unasked
    out = folder / "run"
    assert run(path, out).exit_code == 0
    images = list_images(folder / "real")
    assert sum(encoded) == len(images) == series.count
    rows = read_rows(out)
    known = load_encoder("color-texture").encode(np.stack([i.read_pixels() for i in images]))
    arrays = sorted(row["embedding"][0] for row in rows)
    assert np.allclose(arrays, sorted(known.tolist()))
    assert {row["class_name"] for row in rows} == {"normal", "tumor"}
    encoded.clear()
    assert run(path, folder / "again").exit_code == 0
    assert encoded == []  # kept by content
    assert {r["sample_id"] for r in read_rows(folder / "again")} == {r["sample_id"] for r in rows}
    shutil.rmtree(folder / "real")
    words = ["verify", str(out), "--regenerate", str(len(rows)), "--base", str(folder)]
    told = call(*words)
    assert told.output.count(": exact") == len(rows) and told.exit_code == 0, told.output


def test_a_grid_makes_a_token_of_each_crop_row_by_row(folder: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    crops = cut_grid(pixels, 2, "x.png")
    assert crops.shape == (4, 2, 3, 3)
    for number, (row, column) in enumerate(((0, 0), (0, 3), (2, 0), (2, 3))):
        assert np.array_equal(crops[number], pixels[row : row + 2, column : column + 3])
    loaded = load_recipe(write(folder, grid=2))
    check_recipe(loaded)
    request = build_plan(loaded.recipe, loaded.session).series[0].request_at(0)
    stream = request.condition.get(Embedding)
    assert stream is not None and stream.array.shape[0] == 4
    wide = load_recipe(write(folder, grid=7))
    with pytest.raises(SourceError, match="64 x 64 px cannot be cut into 7 x 7 crops"):
        build_plan(wide.recipe, wide.session).series[0].request_at(0)
    small = load_recipe(write(folder, grid=4))
    with pytest.raises(SourceError, match="webp: images must be"):
        build_plan(small.recipe, small.session).series[0].request_at(0)


def test_an_encoder_that_conditions_must_not_judge_and_brings_its_terms(folder: Path) -> None:
    judge = {"kind": "realism", "images": "real", "encoder": "uni2-h", "min_realism": 0.5}
    np.save(folder / "e.npy", np.ones((2, 4)))
    changes = {"images": None, "embeddings": "e.npy", "encoder": "uni2-h"}
    loaded = load_recipe(write(folder, filters=[judge], **changes))
    (circle,) = find_circles(loaded.recipe, loaded.session)
    assert "filter realism judges with MahmoodLab/UNI2-h, which conditions the generator" in circle
    terms = collect_recipe_terms(loaded.recipe, loaded.session)
    mine = next(term for term in terms if term.role == "image_encoder")
    assert (mine.name, mine.id, mine.reaches) == ("MahmoodLab/UNI2-h", "cc-by-nc-nd-4.0", True)
    write(folder, **changes)
    told = call("plan", str(folder / "recipe.yaml"), "--no-calibrate").output
    assert "no commercial use: by the terms of the image_encoder MahmoodLab/UNI2-h" in told


def test_the_terms_of_the_block_are_those_of_its_images(folder: Path) -> None:
    licence = {
        "id": "cc-by-nc-4.0",
        "date_read": "2026-01-01",
        "commercial_use": False,
    }
    loaded = load_recipe(write(folder, licence=licence))
    terms = collect_recipe_terms(loaded.recipe, loaded.session)
    mine = next(term for term in terms if term.name == "real")
    assert (mine.role, mine.id, mine.reaches) == ("encoded images", "cc-by-nc-4.0", True)
    assert mine.read("commercial_use") is False
    assert not any(term.name == "of the recipe" for term in terms)
    assert run(write(folder, licence=licence), folder / "run").exit_code == 0
    assert mine in collect_summary_terms(open_dataset(str(folder / "run")).summary)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"encoder": "uni2-h"}, r"encoder: uni2-h is gated: accept its terms"),
        ({"encoder": "no-such"}, r"encoder: encoder 'no-such': no such folder and no known id"),
        ({"embeddings": "e.npy"}, "takes either embeddings or images: set one"),
        ({"columns": {"scale": "mpp"}}, "columns: is of a table of embeddings: leave it out"),
        ({"grid": 5}, r"grid: .*webp: 64 x 64 px cannot be cut into 5 x 5 crops"),
        ({"revision": "deadbeef"}, "revision: is what made a table; images are encoded with"),
        ({"images": "gone"}, r"images: .*gone: no such file or folder"),
        (
            {"taken": {"embedding": {"encoder": "uni2-h", "dim": 1536}}},
            "asked takes embeddings of uni2-h, got color-texture",
        ),
        ({"taken": {"optional": ["embedding"]}}, "asked takes no class_name: put them in one"),
    ],
)
def test_what_is_wrong_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], fault: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    path = write(folder, **changes)
    with pytest.raises(RecipeError, match=fault):
        check_recipe(load_recipe(path))
