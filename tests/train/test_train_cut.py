"""`factory train translator` with `kind: cut`: losses, resuming, and what it leaves for recipes."""

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
from factory.core.errors import MismatchError, RecipeError, SourceError
from factory.data.patients import read_patients
from factory.models.generators.families.translator import TranslatorFamily
from factory.models.generators.settings import GeneratorSettings
from factory.models.translators import read_config
from factory.models.translators.config import ResnetSettings
from factory.train.translator.contrast import Contrast
from factory.train.translator.settings import CutOptimisation
from tests.train.commands import make_trained, write_recipe

SETTINGS = ResnetSettings(kind="resnet", channels=4, blocks=2)
TRAINING = {
    "steps": 6,
    "batch_size": 2,
    "discriminator_channels": 4,
    "patches": 16,
    "precision": "float32",
    "checkpoint_every": 3,
}
RECIPE: dict[str, Any] = {
    "name": "pale-to-dark",
    "kind": "cut",
    "data": {
        "source": {"images": "pale"},
        "target": {"images": "dark"},
        "image_size": 32,
        "mpp": 0.5,
        "held_out": 0.4,
    },
    "network": {"channels": 4, "blocks": 2},
    "training": TRAINING,
    "validation": {"every": 3, "images": 16},
    "export": {"title": "Pale to dark", "license": "cc0-1.0"},
}
write = partial(write_recipe, RECIPE)


def save_images(folder: Path, count: int = 60) -> None:
    """Two domains: pink and blue patterns."""
    rows, columns = np.mgrid[0:40, 0:40]
    for number in range(count):
        wave = 0.5 + 0.5 * np.sin((rows + 3 * number) / 4) * np.cos(columns / (5 + number % 3))
        for name, ground, nucleus in (
            ("pale", (235, 180, 210), (150, 90, 160)),
            ("dark", (150, 150, 220), (40, 30, 90)),
        ):
            pixels = wave[..., None] * ground + (1 - wave[..., None]) * nucleus
            path = folder / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


trained = make_trained(save_images, write, "mine")


def test_leaves_a_catalog_whose_model_translates(trained: tuple[Path, str]) -> None:
    out, told = trained
    entry = load_catalogs([out]).find_model("pale-to-dark")
    assert (entry.family, entry.mpp, entry.labels_seen) == ("translator", 0.5, False)
    assert (entry.licence.id, entry.title) == ("cc0-1.0", "Pale to dark")
    assert read_config(out).network == SETTINGS
    family = TranslatorFamily(GeneratorSettings(model="pale-to-dark", batch_size=2), entry)
    made = family.load().model.translate(np.full((2, 32, 32, 3), 200, np.uint8))
    assert made.shape == (2, 32, 32, 3) and np.isfinite(made).all()
    assert (out / "samples.png").is_file() and "kernel distance to the target" in told
    log = [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    measured = [line for line in log if "kid" in line]
    assert [line["step"] for line in measured] == [3, 6]
    assert len({line["kid_source"] for line in measured}) == 1
    assert "correlation of haematoxylin" in (out / "README.md").read_text()
    assert read_patients(out).images == 120


def test_the_same_command_goes_on_to_the_same_weights(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    save_images(tmp_path)
    factory.train_translator(write(tmp_path, training={**TRAINING, "steps": 3}), tmp_path / "mine")
    factory.train_translator(write(tmp_path), tmp_path / "mine")
    first, second = (each / "training" / "log.jsonl" for each in (trained[0], tmp_path / "mine"))
    ends = [json.loads(path.read_text().splitlines()[-1]) for path in (first, second)]
    assert {**ends[0], "time": 0} == {**ends[1], "time": 0}
    weights = [each / "model.safetensors" for each in (trained[0], tmp_path / "mine")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with pytest.raises(MismatchError, match=r"training\.contrast"):
        other = {**TRAINING, "contrast": 2.0}
        factory.train_translator(write(tmp_path, training=other), tmp_path / "mine")


def test_each_side_of_the_game_follows_its_own_loss() -> None:
    torch.manual_seed(0)
    options = CutOptimisation(steps=1, discriminator_channels=4, patches=16, contrast=0.5)
    both = Contrast(SETTINGS, options)
    source, target = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    both(source, target, 3).backward()
    found = {name: value.grad.clone() for name, value in both.named_parameters()}
    both.zero_grad()
    made = both.generator(torch.cat([source, target]))
    judged = both.discriminator(made[:2].detach()).square().mean()
    real = (both.discriminator(target) - 1).square().mean()
    ((judged + real) / 2).backward()
    for name, value in both.discriminator.named_parameters():
        assert torch.allclose(found[f"discriminator.{name}"], value.grad, atol=1e-6), name
    both.zero_grad()
    fooled = (both.discriminator(made[:2]) - 1).square().mean()
    (fooled + 0.5 * both._contrast(torch.cat([source, target]), made, 3)).backward()
    for name, value in both.generator.named_parameters():
        assert torch.allclose(found[f"generator.{name}"], value.grad, atol=1e-6), name


def test_contrast_is_low_where_patches_stay_in_place() -> None:
    torch.manual_seed(0)
    options = CutOptimisation(steps=1, discriminator_channels=4, patches=32)
    both = Contrast(SETTINGS, options)
    for value in both.parameters():  # as after some training: features that differ from each other
        if value.ndim > 1:
            torch.nn.init.orthogonal_(value)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    same, other = both._contrast(images, images, 1), both._contrast(images, images.flip(3), 1)
    assert same < 0.5 * other


def test_what_is_missing_or_misspelt_is_told(tmp_path: Path) -> None:
    save_images(tmp_path, count=2)
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="none"):
        data = RECIPE["data"] | {"target": {"images": "none"}}
        factory.train_translator(write(tmp_path, data=data), tmp_path / "a")
    with pytest.raises(SourceError, match="no image is left to learn from"):
        factory.train_translator(
            write(tmp_path, data=RECIPE["data"] | {"held_out": 0.9}), tmp_path / "b"
        )
    with pytest.raises(RecipeError, match=r"data\.source\.labels"):
        data = RECIPE["data"] | {"source": {"images": "pale", "labels": True}}
        factory.train_translator(write(tmp_path, data=data), tmp_path / "c")
