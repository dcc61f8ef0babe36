"""`factory train translator` with `kind: paired`: source and noise side by side; what is left."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import factory
from factory.catalog.catalog import load_catalogs
from factory.core.errors import FactoryError, MismatchError, RecipeError
from factory.data.patients import read_patients
from factory.models.generators.families.translator import TranslatorFamily
from factory.models.generators.settings import GeneratorSettings
from factory.models.translators import read_config
from factory.models.translators.path import follow, mix
from tests.running import call, read_rows
from tests.train.commands import make_trained, write_recipe

TRAINING = {
    "steps": 60,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "warmup_steps": 0,
    "ema_decay": 0.9,
    "checkpoint_every": 30,
    "validate_every": 30,
}
RECIPE: dict[str, Any] = {
    "name": "he-to-two",
    "kind": "paired",
    "data": {
        "source": {"images": "he"},
        "target": {"images": "mif"},
        "channels": ["DAPI", "CD8"],
        "windows": {"CD8": [0, 1000]},
        "image_size": 32,
        "mpp": 0.5,
        "held_out": 0.25,
        "group_pattern": r"^(p\d)_",
    },
    "network": {"channels": 8},
    "path_steps": 3,
    "training": TRAINING,
    "export": {"license": "cc0-1.0"},
}
write = partial(write_recipe, RECIPE)


def save_pairs(folder: Path, count: int = 24) -> None:
    """Dark nuclei on pink; DAPI where they are dark, CD8 of up to 1,000 on the left of each."""
    rows, columns = np.mgrid[0:36, 0:36]
    for side in ("he", "mif"):
        (folder / side).mkdir()
    for number in range(count):
        wave = np.cos((rows + 5 * number) / 4) * np.cos((columns + 3 * number) / (4 + number % 3))
        dark = np.clip(wave, 0, 1)[..., None]
        pixels = (1 - dark) * (230, 170, 205) + dark * (70, 40, 110)
        name = f"p{number % 4}_{number}"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "he" / f"{name}.png")
        left = 1000 * dark[..., 0] * (columns < 18)
        np.save(folder / "mif" / f"{name}.npy", np.stack([dark[..., 0], left]).astype(np.float32))
    np.save(folder / "mif" / "alone.npy", np.zeros((2, 36, 36), np.float32))


trained = make_trained(save_pairs, write, "mine")


def open_model(out: Path, size: int = 3) -> Any:
    entry = load_catalogs([out]).find_model("he-to-two")
    return TranslatorFamily(GeneratorSettings(model="he-to-two", batch_size=size), entry).load()


def test_leaves_a_catalog_whose_model_makes_named_channels(trained: tuple[Path, str]) -> None:
    out, told = trained
    entry = load_catalogs([out]).find_model("he-to-two")
    assert (entry.family, entry.steps, entry.mpp) == ("translator", 3, 0.5)
    assert entry.channels is not None
    assert [each.name for each in entry.channels.named] == ["DAPI", "CD8"]
    config = read_config(out)
    assert (config.path_steps, config.network.in_channels) == (3, 3 + 2 + 1)
    assert "1 without a partner passed over" in told and "6 held-out pairs" in told
    log = [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    last = [line for line in log if "pixel_error" in line][-1]
    assert last["pixel_error"] < 0.8 * last["mean_error"] and last["correlation"] > 0.6
    assert (out / "samples.png").is_file() and "for each seed" in (out / "README.md").read_text()
    patients = read_patients(out)
    assert patients is not None and (len(patients.groups), patients.unknown) == (4, 0)


def test_a_row_alone_is_the_row_in_its_batch_and_follows_its_seed(
    trained: tuple[Path, str],
) -> None:
    model = open_model(trained[0]).model
    draw = np.random.default_rng(0)
    sources = draw.integers(0, 255, (3, 32, 32, 3), np.uint8)
    noise = model.draw_noise([4, 5, 6], 3, 32, 32)
    made = model.translate(sources, noise)
    turned = model.translate(sources[::-1], model.draw_noise([6, 5, 4], 3, 32, 32))[::-1]
    assert np.array_equal(made, turned) and made.shape == (3, 32, 32, 2)
    others = model.translate(sources, model.draw_noise([7, 5, 6], 3, 32, 32))
    assert np.array_equal(others[1:], made[1:]) and not np.array_equal(others[0], made[0])


def test_a_run_of_it_is_made_again_and_asks_for_several_of_a_source(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    recipe = {
        "name": "mif",
        "catalogs": [str(trained[0])],
        "generator": {"model": "he-to-two", "batch_size": 2},
        "conditions": [
            {
                "kind": "translate",
                "images": str(trained[0].parent / "he"),
                "shots": 2,
                "per_image": 2,
            }
        ],
        "filters": [{"kind": "finite"}],
        "workers": {"executor": "local"},
    }
    path = write_recipe(recipe, tmp_path)
    told = call("run", path, "--out", tmp_path / "run")
    assert told.exit_code == 0, told.output
    rows = read_rows(tmp_path / "run")
    assert len({row["image_sha256"] for row in rows}) == len(rows) == 4
    assert np.shape(rows[0]["channels"]) == (2, 32, 32)
    made = json.loads(rows[0]["provenance"])["generator"]
    assert (made["scheduler"], made["num_inference_steps"]) == ("Euler", 3)
    settings = ["--set", "generator.steps=2"]
    told = call("run", path, "--out", tmp_path / "other", *settings)
    assert told.exit_code == 0, told.output
    others = {row["image_sha256"] for row in read_rows(tmp_path / "other")}
    assert not others & {row["image_sha256"] for row in rows}
    told = call("verify", tmp_path / "run", "--regenerate", "4", "--base", tmp_path)
    assert told.exit_code == 0 and told.output.count(": exact") == 4, told.output


def test_the_path_ends_at_what_is_foreseen_whatever_the_steps() -> None:
    image, noise, source = (torch.randn(2, each, 4, 4) for each in (2, 2, 3))
    for steps in (1, 2, 7):
        ended = follow(lambda _: image, source, noise, steps)
        assert torch.allclose(ended, image, atol=1e-5)
    middle = mix(noise, image, torch.tensor([0.0, 1.0]))
    assert torch.equal(middle[0], noise[0]) and torch.equal(middle[1], image[1])


def test_the_same_command_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    save_pairs(tmp_path)
    short = {**TRAINING, "steps": 4, "checkpoint_every": 2, "validate_every": 2}
    factory.train_translator(write(tmp_path, training={**short, "steps": 2}), tmp_path / "a")
    for name in ("a", "b"):
        factory.train_translator(write(tmp_path, training=short), tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    with pytest.raises(MismatchError, match=r"network\.channels"):
        factory.train_translator(
            write(tmp_path, training=short, network={"channels": 4}), tmp_path / "a"
        )
    one = factory.train_translator(write(tmp_path, training=short, path_steps=0), tmp_path / "once")
    assert one["held_out"] == 6 and read_config(tmp_path / "once").path_steps is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"channels": ["DAPI"], "windows": {}},
            r"has 2 channels, data\.channels names 1: name each",
        ),
        ({"windows": {}}, r"numbers beyond \[0, 1\]: say in data\.windows"),
        ({"windows": {"CD3": [0, 1]}}, r"recipe\.yaml:\d+:\d+: data: .*'CD3' is none of channels"),
        ({"image_size": 64}, r"36x36 px: lower data\.image_size"),
        ({"target": {"images": "he/.."}}, r"0 pairs, 8 wanted"),
        ({"target": {"images": "nowhere"}}, r"nowhere: no such folder"),
        ({"group_pattern": r"^(x\d)_"}, r"p0_0: group_pattern .* finds no group"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    save_pairs(tmp_path, 12)
    with pytest.raises((FactoryError, RecipeError), match=said):
        factory.train_translator(
            write(tmp_path, data={**RECIPE["data"], **changes}), tmp_path / "mine"
        )
