"""Training a generator: resumed equals uninterrupted, and what comes out is a pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image

from factory.errors import MismatchError, SourceError
from factory.generators.pixel_flow import PixelFlowPipeline
from factory.train.generator import compute_rate, draw_batch, load_training_images, train_generator
from factory.train.settings import TrainingRecipe


def make_recipe(images, steps=4, **changes):
    training = {
        "steps": steps,
        "batch_size": 4,
        "warmup_steps": 2,
        "decay_steps": 2,
        "precision": "float32",
        "checkpoint_every": 2,
    }
    data = {
        "name": "tiny",
        "seed": 3,
        "data": {"images": images, "image_size": 16, "mpp": 0.5},
        "network": {"channels": [32, 32], "attention": [False, False], "layers_per_block": 1},
        "training": training,
    }
    return TrainingRecipe.model_validate({**data, **changes})


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(["normal", "tumor"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(5):
            pixels = np.random.default_rng(10 * number + index).integers(0, 256, (20, 20, 3))
            path = tmp_path / "images" / name / f"{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "images"


def read_weights(folder):
    return PixelFlowPipeline.from_pretrained(folder).unet.state_dict()


def test_resumed_equals_uninterrupted(images, tmp_path):
    steps = []
    train_generator(make_recipe(images), tmp_path / "whole", lambda s, n, loss: steps.append(s))
    first = make_recipe(images, steps=2)
    first = first.model_copy(
        update={"training": first.training.model_copy(update={"decay_steps": 0})}
    )
    train_generator(first, tmp_path / "parts", lambda *a: None)
    train_generator(make_recipe(images), tmp_path / "parts", lambda *a: None)
    whole, parts = read_weights(tmp_path / "whole"), read_weights(tmp_path / "parts")
    assert steps == [4]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_export_is_a_pipeline_with_its_classes(images, tmp_path):
    out = train_generator(make_recipe(images), tmp_path / "out", lambda *a: None)
    pipeline = PixelFlowPipeline.from_pretrained(out)
    assert (pipeline.class_names, pipeline.image_size) == (("normal", "tumor"), 16)
    assert pipeline.config.mpp == 0.5
    assert list((out / "unet").glob("*.safetensors"))
    assert (out / "training" / "samples-0000004.png").is_file()
    assert len((out / "training" / "log.jsonl").read_text().splitlines()) == 1


def test_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    train_generator(make_recipe(images, steps=2), tmp_path / "out", lambda *a: None)
    with pytest.raises(MismatchError, match=r"seed: 3 -> 4"):
        train_generator(make_recipe(images, seed=4), tmp_path / "out", lambda *a: None)


def test_images_without_a_class_are_refused(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    with pytest.raises(SourceError, match="without a class"):
        load_training_images(make_recipe(tmp_path))


def test_every_image_is_seen_once_in_an_epoch_and_labels_drop(images):
    recipe = make_recipe(images)
    pixels = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 16, 16).to(torch.uint8) * 30
    labels = torch.zeros(8, dtype=torch.int64)
    batches = [draw_batch(recipe, pixels, labels, 2, step) for step in range(2)]
    seen = torch.cat([batch[0].mean((1, 2, 3)) for batch in batches])
    assert len(seen.unique()) == 8
    classes = torch.cat([draw_batch(recipe, pixels, labels, 2, s)[1] for s in range(200)])
    assert 0.05 < (classes == 2).float().mean() < 0.15
    again = draw_batch(recipe, pixels, labels, 2, 1)
    assert all(torch.equal(a, b) for a, b in zip(again, batches[1], strict=True))


def test_rate_rises_stays_and_falls(images):
    options = make_recipe(images, steps=10).training
    rates = [compute_rate(options, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-2:] == [1.0, 0.5]


def test_a_class_with_a_comma_is_refused(images):
    (images / "tumor").rename(images / "tumor, low grade")
    with pytest.raises(SourceError, match="without a comma"):
        load_training_images(make_recipe(images))
