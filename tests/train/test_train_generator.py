"""Training a generator: resumed equals uninterrupted, and what comes out is a pipeline."""

import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, MismatchError, SourceError
from factory.data.patients import read_patients
from factory.models.generators.conditioner import Conditioner
from factory.models.generators.flow import FlowPipeline, apply_network
from factory.train.augment import jitter_stains, turn_images
from factory.train.batches import draw_batch
from factory.train.generator.network import build_denoiser
from factory.train.generator.settings import DataSettings, SourceSettings, TrainingRecipe
from factory.train.generator.setup import join_start, prepare_material
from factory.train.generator.train import GeneratorTrainer
from factory.train.generator.trainer import compute_rate
from factory.train.images import cut_view, load_training_images
from tests import forked
from tests.running import read_rows, run
from tests.train.commands import kill_and_go_on, train_elsewhere

PINK, PURPLE = (225, 140, 190), (90, 50, 150)


def describe_recipe(images, steps=4, **changes):
    training = {
        "steps": steps,
        "batch_size": 4,
        "warmup_steps": 2,
        "decay_steps": 2,
        "precision": "float32",
        "checkpoint_every": 2,
        **changes.pop("training", {}),
    }
    data = {"image_size": 16, "mpp": 0.5, "held_out": 0, **changes.pop("data", {})}
    source = {"images": str(images), **changes.pop("source", {})}
    return {
        "name": "tiny",
        "seed": 3,
        "data": {**data, "sources": [source]},
        "network": {"channels": [32, 32], "attention": [False, False], "fold": 2},
        "training": training,
        "validation": {"every": 100, "images": 16},
        "sampling": {"steps": 2},
        **changes,
    }


def make_recipe(images, steps=4, **changes):
    return TrainingRecipe.model_validate(describe_recipe(images, steps, **changes))


def train(recipe, out, report=lambda *state: None):
    return GeneratorTrainer.open(recipe, load_catalogs(), out).train(report)


@pytest.fixture
def images(tmp_path):
    """Five images each of a pink and a purple class, with a little noise."""
    for number, (name, colour) in enumerate((("normal", PINK), ("tumor", PURPLE))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(5):
            noise = np.random.default_rng(10 * number + index).integers(-20, 20, (20, 20, 3))
            path = tmp_path / "images" / name / f"{index}.png"
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def one_thread():
    """The number of threads may change the last bits of a gradient."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read_weights(folder):
    pipeline = FlowPipeline.from_pretrained(folder)
    parts = {"unet": pipeline.unet, "conditioner": pipeline.conditioner}
    return {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}


# --- the loop -------------------------------------------------------------------------------------


def test_resumed_equals_uninterrupted(images, tmp_path):
    steps = []
    train(make_recipe(images), tmp_path / "whole", lambda step, *rest: steps.append(step))
    train(make_recipe(images, 2, training={"decay_steps": 0}), tmp_path / "parts")
    train(make_recipe(images), tmp_path / "parts")
    whole, parts = read_weights(tmp_path / "whole"), read_weights(tmp_path / "parts")
    assert steps == [4]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow("test_resumed_equals_uninterrupted")
def test_killed_training_goes_on_to_the_same_weights(images, tmp_path, one_thread):
    recipe = describe_recipe(images, 24, training={"checkpoint_every": 4})
    trained = partial(train, TrainingRecipe.model_validate(recipe))
    killed, whole = map(read_weights, kill_and_go_on("generator", recipe, trained, tmp_path))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_accumulated_passes_make_one_step(images, tmp_path):
    result = train(make_recipe(images, 2, training={"accumulate": 3}), tmp_path / "out")
    assert result["step"] == 2
    (path,) = tmp_path.glob("out/training/checkpoint-*/optimizer.bin")
    state = torch.load(path, weights_only=True)["state"]
    assert {float(each["step"]) for each in state.values()} == {2.0}


@pytest.mark.slow("test_accumulated_passes_make_one_step")
def test_two_processes_train_one_model(images, tmp_path):
    """Two real processes on the CPU: one log and checkpoint, and twice the images in a step."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(describe_recipe(images, 3)))
    out = tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {  # as `accelerate launch` and `torchrun` tell their processes
        "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    command = ["train", "generator", str(path), "--out", str(out)]
    processes = [
        forked.start_command(command, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")
    ]
    assert [forked.wait(process, 240) for process in processes] == [0, 0]
    assert len((out / "training" / "log.jsonl").read_text().splitlines()) == 1
    train(make_recipe(images, 3), tmp_path / "alone")
    both, alone = read_weights(out), read_weights(tmp_path / "alone")
    assert any(not torch.equal(both[name], alone[name]) for name in both)


def test_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    train(make_recipe(images, steps=2), tmp_path / "out")
    with pytest.raises(MismatchError, match=r"seed: 3 -> 4"):
        train(make_recipe(images, seed=4), tmp_path / "out")


@pytest.mark.slow("test_resumed_equals_uninterrupted")
def test_it_learns_and_keeps_the_best_weights(images, tmp_path):
    """The classes differ after 120 steps; the export is the best validation, not the last."""
    seen = []
    recipe = make_recipe(
        images,
        120,
        data={"image_size": 32, "held_out": 0.3},
        source={"views": 4, "fit": "resize"},
        network={"channels": [32, 32], "attention": [False, False], "fold": 2},
        training={
            **{"learning_rate": 4e-3, "warmup_steps": 5, "decay_steps": 40, "ema_decay": 0.9},
            **{"batch_size": 8, "stream_dropout": 0, "reference_rate": 0},
        },
        validation={"every": 40, "images": 16},
        sampling={"steps": 3, "guidance": 1.5},
    )
    out = tmp_path / "out"
    result = train(recipe, out, lambda step, steps, measured: seen.append((step, measured)))
    losses = [measured["loss"] for _, measured in seen if "loss" in measured]
    kids = {step: measured["kid"] for step, measured in seen if "kid" in measured}
    assert losses[-1] < 0.7 * losses[0]
    assert list(kids) == [40, 80, 120]
    assert result["best_step"] == min(kids, key=kids.get)
    assert result["kid"] == min(kids.values())
    pipeline = FlowPipeline.from_pretrained(out)
    noise = torch.randn(16, 12, 16, 16, generator=torch.Generator().manual_seed(1))
    red = []
    for label in (0, 1):  # what it takes the image to be, where nearly all is noise
        vector = pipeline.encode_conditions(16, [label] * 16, None, None)
        with torch.no_grad():
            velocity = apply_network(pipeline.unet, noise, torch.full((16,), 0.99), vector, 0.5)
        red.append(float(pipeline.decode_pixels(noise - velocity)[:, 0].mean() * 127.5 + 127.5))
    assert red[0] > red[1] + 30


def test_rate_rises_stays_and_falls(images):
    options = make_recipe(images, steps=10).training
    rates = [compute_rate(options, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-2:] == [1.0, 0.5]


# --- what comes out -------------------------------------------------------------------------------


def test_export_is_a_model_that_a_recipe_names(images, tmp_path):
    out = tmp_path / "model"
    train(make_recipe(images), out)
    pipeline = FlowPipeline.from_pretrained(out)
    assert (pipeline.class_names, pipeline.image_size) == (("normal", "tumor"), 16)
    assert (pipeline.config.mpp, pipeline.tokenizer) == (0.5, None)
    assert list((out / "unet").glob("*.safetensors"))
    assert (out / "samples.png").is_file()
    entry = load_catalogs([out]).find_model("tiny")
    assert (entry.class_names, entry.labels_seen, entry.mpp) == (("normal", "tumor"), True, 0.5)
    card = (out / "README.md").read_text()
    assert "classes learned: normal, tumor" in card
    assert "Not validated" in card
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "made",
                "catalogs": [str(out)],
                "generator": {"model": "tiny", "batch_size": 2},
                "conditions": [{"kind": "class", "per_class": 1}],
                "workers": {"executor": "local"},
            }
        )
    )
    assert run(recipe, tmp_path / "run").exit_code == 0
    assert {row["class_name"] for row in read_rows(tmp_path / "run")} == {"normal", "tumor"}


def test_trains_on_from_a_checkpoint(images, tmp_path):
    """Without labels first, then with: shared weights are taken over, class rows are new."""
    train(make_recipe(images, source={"labels": False}), tmp_path / "base")
    assert FlowPipeline.from_pretrained(tmp_path / "base").class_names == ()
    recipe = make_recipe(images, 1, init=str(tmp_path / "base"), training={"learning_rate": 1e-12})
    train(recipe, tmp_path / "labelled")
    base, labelled = read_weights(tmp_path / "base"), read_weights(tmp_path / "labelled")
    assert set(labelled) - set(base) == {"conditioner.class_embedding.weight"}
    assert all(torch.allclose(base[name], labelled[name], atol=1e-3) for name in base)
    seen = [read_patients(tmp_path / name) for name in ("base", "labelled")]
    assert seen[1].images == 2 * seen[0].images, "those of the model that it went on from, too"
    (tmp_path / "base/patients.json").unlink()
    assert join_start(seen[0], str(tmp_path / "base"), load_catalogs()).started_from
    other = make_recipe(
        images,
        init=str(tmp_path / "base"),
        network={"channels": [32, 64], "attention": [False, False]},
    )
    with pytest.raises(InputError, match="init: unet"):
        train(other, tmp_path / "other")
    groups = make_recipe(
        images,
        init=str(tmp_path / "base"),
        network={"channels": [32, 32], "attention": [False, False], "norm_groups": 16},
    )
    with pytest.raises(InputError, match="init: the model has 8 groups a norm"):
        train(groups, tmp_path / "other")
    with pytest.raises(InputError, match="neither a catalog id nor a folder of a FlowPipeline"):
        train(make_recipe(images, init="nowhere"), tmp_path / "other")


def test_captions_are_measured_learned_and_taken(images, tmp_path):
    recipe = make_recipe(images, captions={"kind": "measured", "grid": "he-attributes"})
    train(recipe, tmp_path / "out")
    pipeline = FlowPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    assert load_catalogs([tmp_path / "out"]).find_model("tiny").optional[1] == "caption"
    made = [
        pipeline(prompt=[text], generator=torch.Generator().manual_seed(1), output_type="np")
        for text in ("dense nuclei", "dense nuclei", "strong eosin")
    ]
    assert np.array_equal(made[0].images, made[1].images)
    assert not np.array_equal(made[0].images, made[2].images)


@pytest.mark.slow("test_captions_are_measured_learned_and_taken")
def test_captions_learn_to_say_what_references_show(images, tmp_path):
    """Pink and purple are told apart by their captions, once the denoiser is trained."""
    told = [f"{p.relative_to(images)},{p.parent.name} tissue" for p in images.glob("*/*.png")]
    (images / "metadata.csv").write_text("\n".join(["file_name,text", *told]))
    captions = {"kind": "given"}
    seen = []
    recipe = make_recipe(images, 2, captions=captions, training={"reading_steps": 60})
    result = train(recipe, tmp_path / "out", lambda step, _, measured: seen.append(measured))
    assert result["reading"] == seen[-1]["reading"] > 0.5
    once = FlowPipeline.from_pretrained(tmp_path / "out")
    train(recipe, tmp_path / "out")  # again: from the weights that did not read yet
    again, plain = FlowPipeline.from_pretrained(tmp_path / "out"), tmp_path / "plain"
    train(make_recipe(images, 2, captions=captions), plain)
    unread = FlowPipeline.from_pretrained(plain)
    for name in ("text_encoder", "conditioner", "unet"):
        first, second, before = (getattr(each, name).state_dict() for each in (once, again, unread))
        assert all(torch.equal(first[key], second[key]) for key in first)
        changed = {key for key in first if not torch.equal(first[key], before[key])}
        assert bool(changed) == (name != "unet")
        assert name != "conditioner" or changed == {"text_projection.weight"}
    with pytest.raises(InputError, match=r"needs captions and network\.reference_dim"):
        train(make_recipe(images, training={"reading_steps": 9}), tmp_path / "other")


def test_latent_model_trains_and_samples_through_its_autoencoder(images, tmp_path):
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(tmp_path / "vae")
    network = {"channels": [32, 32], "attention": [False, False], "vae": str(tmp_path / "vae")}
    train(make_recipe(images, network=network), tmp_path / "out")
    pipeline = FlowPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert (pipeline.unet.config.in_channels, pipeline.image_size) == (4, 16)
    assert pipeline([0, 1], output_type="np").images.shape == (2, 16, 16, 3)
    with pytest.raises(InputError, match="vae: nowhere: cannot be loaded"):
        train(make_recipe(images, network={**network, "vae": "nowhere"}), tmp_path / "other")


def test_command_reads_paths_from_the_recipes_folder(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    train_elsewhere("generator", describe_recipe("images", 2), tmp_path)


# --- images and batches ---------------------------------------------------------------------------


def load(images, tmp_path, **changes):
    recipe = make_recipe(images, **changes)
    return recipe, load_training_images(recipe.data, None, recipe.seed, tmp_path / "cache")


def test_images_without_a_class_are_refused_unless_labels_are_off(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    with pytest.raises(SourceError, match="without a class"):
        load(tmp_path, tmp_path)
    _, loaded = load(tmp_path, tmp_path, source={"labels": False})
    assert (loaded.labels.tolist(), loaded.class_names) == ([-1], ())


def test_a_class_with_a_comma_is_refused(images, tmp_path):
    (images / "tumor").rename(images / "tumor, low grade")
    with pytest.raises(SourceError, match="without a comma"):
        load(images, tmp_path)


def test_views_stay_on_the_side_of_their_image(images, tmp_path):
    _, loaded = load(images, tmp_path, data={"held_out": 0.4}, source={"views": 3})
    assert loaded.pixels.shape == (30, 16, 16, 3)
    held = loaded.held_out.reshape(10, 3)
    assert 0 < held[:, 0].sum() < 10
    assert (held == held[:, :1]).all()
    again = load(images, tmp_path, data={"held_out": 0.4}, source={"views": 3})[1]
    assert np.array_equal(again.pixels, loaded.pixels)


def test_random_view_is_a_square_of_the_image():
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[:] = np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None]
    settings = SourceSettings(images=Path("x"), scale=(0.5, 0.5))
    view = cut_view(ramp, 20, settings, np.random.default_rng(0))
    assert view.shape == (20, 20, 3)
    assert float(view[:, -1].mean()) - float(view[:, 0].mean()) == pytest.approx(19 * 4.32, abs=6)


def test_batches_are_keyed_by_step_and_drop_what_they_should(images, tmp_path):
    recipe = make_recipe(images, training={"batch_size": 64})
    material = prepare_material(recipe, load_catalogs(), tmp_path)
    first, second = (draw_batch(recipe, material.images, None, (step, 0, 0)) for step in (0, 1))
    again = draw_batch(recipe, material.images, None, (1, 0, 0))
    assert torch.equal(second.images, again.images)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(
        draw_batch(recipe, material.images, None, (1, 0, 1)).images, second.images
    )
    batches = [draw_batch(recipe, material.images, None, (s, 0, 0)) for s in range(30)]
    free = torch.cat([batch.labels for batch in batches]) < 0
    assert 0.33 < free.float().mean() < 0.41  # 1 - 0.9 x 0.7
    given = torch.cat([batch.blur[:, -1] for batch in batches])
    assert 0.32 < given.mean() < 0.40  # 0.9 x 0.4
    times = torch.cat([batch.sigma for batch in batches])
    assert times.min() > 0 and times.max() < 1
    assert abs(times.logit().mean()) < 0.1


def test_held_out_images_are_never_drawn(images, tmp_path):
    recipe = make_recipe(images, data={"held_out": 0.4}, training={"stain_jitter": 0})
    loaded = load_training_images(recipe.data, None, recipe.seed, tmp_path / "cache")
    kept = {image.mean().round(2) for image in loaded.pixels[~loaded.held_out] / 127.5 - 1}
    for step in range(20):
        drawn = draw_batch(recipe, loaded, None, (step, 0, 0)).images
        assert {round(float(mean), 2) for mean in drawn.mean((1, 2, 3))} <= kept


def test_turns_are_the_eight_of_the_square():
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(8, 1, 4, 4)
    turned = turn_images(image, torch.arange(8))
    assert len(turned.flatten(1).unique(dim=0)) == 8
    assert torch.equal(turned[0], image[0])


def test_stain_jitter_is_mild_and_spares_white():
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(8, 3, 16, 16, generator=generator) * 1.2 - 0.6
    batch[:, :, :4] = 1.0
    assert torch.equal(jitter_stains(batch, 0.0), batch)
    jittered = jitter_stains(batch, 0.05, torch.Generator().manual_seed(1))
    change = (jittered - batch).abs()
    assert 0.002 < change.mean() < 0.05
    assert change[:, :, :4].max() < 0.02


def test_narrow_networks_heed_their_conditions():
    """With one channel a group, a norm would take away all that a condition adds."""
    settings = make_recipe("x").network
    torch.manual_seed(0)
    unet = build_denoiser(settings, 16, 2, None, None).unet.eval()
    noise = torch.randn(1, 12, 8, 8).expand(2, -1, -1, -1)
    vectors = torch.stack([torch.zeros(128), torch.randn(128)])
    with torch.no_grad():
        velocity = apply_network(unet, noise, torch.full((2,), 0.5), vectors, 0.5)
    assert (velocity[0] - velocity[1]).std() > 0.01 * velocity.std()
    with pytest.raises(ValueError, match="8 is not a multiple of norm_groups, 8, of at least"):
        make_recipe("x", network={"channels": [8], "attention": [False]})


def test_settings_say_what_is_wrong():
    with pytest.raises(ValueError, match="0 < low <= high <= 1"):
        SourceSettings(images=Path("x"), scale=(0.9, 0.2))
    with pytest.raises(ValueError, match="as many entries as channels"):
        make_recipe("x", network={"channels": [32, 32], "attention": [False]})
    assert DataSettings(sources=(SourceSettings(images=Path("x")),)).image_size == 64


def test_facts_must_be_values_of_the_grid(images, tmp_path):
    captions = {"kind": "measured", "grid": "he-attributes"}
    for facts, message in (
        ({"organ": "colom"}, r"facts\.organ: no value 'colom': did you mean 'colon'"),
        ({"orgn": "colon"}, r"no caption attribute 'orgn': did you mean 'organ'"),
    ):
        recipe = make_recipe(images, captions=captions, source={"facts": facts})
        with pytest.raises(InputError, match=message):
            train(recipe, tmp_path / "out")
    with pytest.raises(InputError, match="no measures"):
        train(
            make_recipe(images, captions={"kind": "measured", "grid": "he-basic"}),
            tmp_path / "other",
        )
    with pytest.raises(InputError, match="no image has one"):
        train(make_recipe(images, captions={"kind": "given"}), tmp_path / "third")


# --- streams together ----------------------------------------------------------------------------


def test_streams_that_say_the_same_are_not_louder_where_they_are_averaged():
    torch.manual_seed(0)
    averaging = Conditioner(dim=16, classes=2, text_dim=8, reference_dim=4, average=True)
    summing = Conditioner(dim=16, classes=2, text_dim=8, reference_dim=4)
    summing.load_state_dict(averaging.state_dict())
    text, reference = torch.randn(3, 8), torch.randn(3, 4)
    text[2] = reference[1] = 0.0
    labels = torch.tensor([1, -1, -1])
    with torch.no_grad():
        parts = [
            averaging.class_embedding(labels.clamp(min=0)) * (labels >= 0).unsqueeze(1),
            averaging.text_projection(text),
            averaging.reference_projection(reference),
        ]
        total = sum(parts)
        expected = total / torch.tensor([[3.0], [1.0], [1.0]])
        found = averaging(3, labels, text, reference)
        torch.testing.assert_close(found, expected + averaging.mix(expected))
        torch.testing.assert_close(summing(3, labels, text, reference), total + summing.mix(total))
        torch.testing.assert_close(averaging(3, text=text * 0), summing(3))
