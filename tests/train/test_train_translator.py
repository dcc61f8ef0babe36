"""`factory train translator`: a flow between embeddings, from pairs to what a recipe names."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import factory
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, MismatchError, RecipeError, SourceError
from factory.core.hashing import hash_bytes
from factory.data.patients import read_patients
from factory.models.encoders import load_encoder
from factory.models.encoders.latent_flow import LatentFlow, transport
from factory.models.session import Session
from factory.train.generator.recipe import load_translator_recipe
from factory.train.translator.pairs import load_pairs
from tests.running import call
from tests.train.commands import make_trained, write_recipe

DIM = 12
TRAINING = {"steps": 150, "batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 5}
RECIPE: dict[str, Any] = {
    "name": "he-to-ihc",
    "kind": "flow",
    "data": {
        "source": {"embeddings": "he.parquet", "key": "tile"},
        "target": {"embeddings": "ihc.parquet", "key": "tile"},
        "encoder": "he-ssl",
        "group_column": "patient",
        "held_out": 0.2,
    },
    "network": {"width": 32, "blocks": 2},
    "training": {**TRAINING, "ema_decay": 0.9, "validate_every": 75, "checkpoint_every": 50},
    "sampling_steps": 10,
}
write = partial(write_recipe, RECIPE)


def save_tables(folder: Path, count: int = 80) -> None:
    """Two domains of which one follows from the other; the second in another order, less two."""
    draw = np.random.default_rng(0)
    hidden, first, second = (draw.normal(size=s) for s in ((count, 3), (3, DIM), (3, DIM)))
    domains = {"he": np.tanh(hidden @ first), "ihc": np.tanh(hidden @ second) + 1.0}
    for name, values in domains.items():
        order = range(count) if name == "he" else range(count - 1, 1, -1)
        table = {
            "tile": [f"t{row}" for row in order],
            "patient": [f"p{row // 8}" for row in order],
            "embedding": [values[row].astype("f4").tolist() for row in order],
        }
        pq.write_table(pa.table(table), folder / f"{name}.parquet")


trained = make_trained(save_tables, write, "he-to-ihc")


def test_comes_nearer_than_the_mean_and_tells_what_it_passed_over(
    trained: tuple[Path, str],
) -> None:
    out, told = trained
    log = [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    measured = next(line for line in reversed(log) if "error" in line)
    assert measured["error"] < 0.5 * measured["error_shift"] < 0.5
    assert measured["cosine"] > max(measured["cosine_shift"], measured["cosine_source"])
    assert "2 without a partner passed over" in told
    card = (out / "README.md").read_text()
    assert "2 rows or images without a partner" in card and "moved by the mean" in card
    seen = read_patients(out)
    assert seen.groups == tuple(sorted(hash_bytes(f"p{each}".encode()) for each in range(10)))
    assert seen.is_whole


def test_the_same_command_goes_on_to_the_same_weights(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    save_tables(tmp_path)
    short = {**RECIPE["training"], "steps": 75}
    factory.train_translator(write(tmp_path, training=short), tmp_path / "he-to-ihc")
    factory.train_translator(write(tmp_path), tmp_path / "he-to-ihc")
    first, second = (each / "flow.safetensors" for each in (trained[0], tmp_path / "he-to-ihc"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(MismatchError, match=r"network\.width"):
        factory.train_translator(
            write(tmp_path, network={"width": 16, "blocks": 2}), tmp_path / "he-to-ihc"
        )


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    save_tables(tmp_path)
    recipe, catalogs = load_translator_recipe(write(tmp_path))
    pairs = load_pairs(recipe, Session(catalogs))
    patients = np.array([row // 8 for row in range(80)])[2:]
    for patient in set(patients):
        assert len(set(pairs.held_out[patients == patient])) == 1
    assert 0.2 <= pairs.held_out.mean() < 0.35
    assert pairs.passed == 2 and pairs.source.shape == (78, DIM)


def test_an_encoder_of_images_moves_them_and_conditions_a_model(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    for number in range(10):
        pixels = draw.integers(0, 255, (64, 64, 3), np.uint8)
        for stain, shown in (("he", pixels), ("ihc", 255 - pixels)):
            place = tmp_path / stain / "a" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown).save(place)
    data = {"source": {"images": "he"}, "target": {"images": "ihc"}, "encoder": "color-texture"}
    training = {**RECIPE["training"], "steps": 20, "validate_every": 20}
    path = write(tmp_path, data=data, training=training)
    factory.train_translator(path, tmp_path / "he-to-ihc")
    catalogs = load_catalogs([tmp_path / "he-to-ihc"])
    moved = load_encoder("he-to-ihc", catalogs=catalogs)
    images = np.stack([np.array(Image.open(tmp_path / "he/a" / f"{n}.png")) for n in range(3)])
    plain = load_encoder("color-texture").encode(images)
    together = moved.encode(images)
    assert together.shape == plain.shape and not np.allclose(together, plain)
    assert np.allclose(together[1:2], moved.encode(images[1:2]), atol=1e-6)
    assert (
        moved.describe()["weights_sha256"]
        != load_encoder("color-texture").describe()["weights_sha256"]
    )
    entry = catalogs.find_encoder("he-to-ihc")
    assert (entry.space, entry.dim) == ("color-texture", plain.shape[1])
    check_run(tmp_path, together)


def check_run(folder: Path, moved: Any) -> None:
    """A recipe names the flow: rows hold moved embeddings, under the name of what they stand for.

    A model that takes embeddings of the encoder takes them, and the terms of both are told.
    """
    model = {
        "id": "draws",
        "source": "fake",
        "family": "fake",
        "required": ["embedding"],
        "optional": ["class_name"],
        "embedding": {"encoder": "color-texture", "dim": moved.shape[1]},
        "width": 32,
        "height": 32,
        "steps": 1,
        "guidance": 1.0,
        "licence": {"id": "cc0-1.0", "date_read": "2026-11-27"},
    }
    (folder / "mine" / "models").mkdir(parents=True)
    (folder / "mine" / "models" / "draws.yaml").write_text(yaml.safe_dump(model))
    recipe = {
        "name": "x",
        "catalogs": ["he-to-ihc", "mine"],
        "generator": {"model": "draws"},
        "conditions": [{"kind": "embedding", "images": "he", "encoder": "he-to-ihc", "per_row": 1}],
        "output": {"path": "run"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    factory.run(folder / "run.yaml")
    rows = pq.read_table(folder / "run" / "data").to_pylist()
    kept = np.array([row["embedding"][0] for row in rows], np.float32)
    assert {row["embedding_encoder"] for row in rows} == {"color-texture@he-to-ihc"}
    assert all(np.abs(kept - each).max(1).min() < 1e-6 for each in moved)
    told = call("plan", str(folder / "run.yaml"), "--no-calibrate").output
    assert "color-texture" in told and "he-to-ihc" in told


def test_weights_have_the_published_names() -> None:
    names = set(LatentFlow(1536).state_dict())
    assert (
        "res_blocks.5.out_layers.3.weight" in names and "res_blocks.6.in_layers.0.bias" not in names
    )
    blocks = {name.split(".", 2)[2] for name in names if name.startswith("res_blocks.0.")}
    layers = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    assert blocks == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    others = {name.rpartition(".")[0] for name in names if not name.startswith("res_blocks")}
    assert others == {"time_embed.0", "time_embed.2", "input_proj", "out.0", "out.2"}


def test_euler_steps_follow_a_known_velocity() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = transport(lambda x, t: torch.full_like(x, 2.0), values, 7)
    assert torch.allclose(moved, values + 2.0)
    grown = transport(lambda x, t: 2.0 * t[:, None] * torch.ones_like(x), values, 400)
    assert torch.allclose(grown, values + 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"target": {"embeddings": "ihc.parquet"}}, r"data: key: name it of both tables"),
        ({"target": {"images": "ihc"}}, "give images of both, or embeddings of both"),
        ({"source": {"embeddings": "he.parquet", "images": "he"}}, "either images or embeddings"),
        ({"grid": 4}, "grid and group_pattern are of images"),
    ],
)
def test_what_contradicts_itself_is_refused(
    data: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, data=RECIPE["data"] | data)
    with pytest.raises(RecipeError, match=words):
        load_translator_recipe(path)


def test_pairs_that_do_not_match_are_refused(tmp_path: Path) -> None:
    save_tables(tmp_path)
    order = {"source": {"embeddings": "he.parquet"}, "target": {"embeddings": "ihc.parquet"}}
    cases = (
        (order, r"ihc\.parquet: 78 rows, but .*he\.parquet has 80: .* name a column with key"),
        ({"target": {"embeddings": "ihc.parquet", "key": "patient"}}, "'p.' stands 8 times"),
        ({"source": {"embeddings": "he.parquet", "key": "tiles"}}, "no column 'tiles'"),
        (
            {"target": {"embeddings": "ihc.parquet", "key": "tile", "column": "tile"}},
            "tile: could not convert",
        ),
    )
    for data, words in cases:
        with pytest.raises(SourceError, match=words):
            factory.train_translator(
                write(tmp_path, data=RECIPE["data"] | data), tmp_path / "he-to-ihc"
            )
    with pytest.raises(InputError, match=r"data\.encoder: .*'nope'"):
        factory.train_translator(
            write(tmp_path, data=RECIPE["data"] | {"encoder": "nope"}), tmp_path / "he-to-ihc"
        )


def test_an_encoder_of_other_weights_is_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was trained on 12 features of he-ssl"):
        load_encoder("he-to-ihc", catalogs=load_catalogs([trained[0]]))
