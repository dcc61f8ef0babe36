"""Training an encoder without labels: losses, views, collapse, resume, and what it leaves."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from factory.catalog.catalog import load_catalogs
from factory.cli import main
from factory.core.errors import MismatchError, RecipeError, SourceError, TrainingError
from factory.data.patients import read_patients
from factory.evaluate.judge_overlap import Involved, Making, find_parts
from factory.models.encoders import list_parts, load_encoder
from factory.train.encoder.loop import check_collapse, compute_rate, train_self_supervised
from factory.train.encoder.losses import compute_loss, measure_rank, measure_spread
from factory.train.encoder.settings import EncoderRecipe, Simclr, Vicreg, ViewSettings
from factory.train.encoder.views import blur_images, cut_views, draw_pair, vary_views
from factory.train.generator.recipe import load_encoder_recipe
from factory.train.images import load_training_images
from tests import forked
from tests.running import call
from tests.train.commands import kill_and_go_on, train_elsewhere

COLOURS = ((225, 140, 190), (90, 50, 150), (200, 200, 120), (60, 120, 60))


def describe_recipe(images, steps=4, **changes):
    training = {
        **{"steps": steps, "batch_size": 8, "warmup_steps": 2, "precision": "float32"},
        **{"validate_every": 2, "checkpoint_every": 2, "min_spread": 0.0},
        **changes.pop("training", {}),
    }
    data = {"image_size": 40, "held_out": 0.3, **changes.pop("data", {})}
    return {
        "name": "tiny",
        "seed": 3,
        "data": {**data, "sources": [{"images": str(images), "fit": "resize"}]},
        "network": {"channels": [8, 16]},
        "views": {"size": 32, "noise": 0.02, "contrast": 0.1, **changes.pop("views", {})},
        "method": {"kind": "vicreg", "hidden": 16, "dim": 16},
        "training": training,
        **changes,
    }


def make_recipe(images, steps=4, **changes):
    return EncoderRecipe.model_validate(describe_recipe(images, steps, **changes))


def train(recipe, out, report=lambda *state: None):
    return train_self_supervised(recipe, out, report)


def draw_image(number):
    """Squares of one of four colours on a light ground, of a size of their own."""
    draw = np.random.default_rng(number)
    image = np.full((48, 48, 3), 235) + draw.integers(-15, 15, (48, 48, 3))
    side = 4 + 3 * (number % 4)
    for _ in range(8):
        top, left = draw.integers(0, 48 - side, 2)
        image[top : top + side, left : left + side] = COLOURS[number % 4]
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


@pytest.fixture
def images(tmp_path):
    """Thirty images in one folder, without classes."""
    (tmp_path / "images").mkdir()
    for number in range(30):
        draw_image(number).save(tmp_path / "images" / f"{number:02}.png")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads may change the last bits of a gradient."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_weights(first, second):
    one, other = (load_file(folder / "encoder.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- losses ---------------------------------------------------------------------------------------


def test_vicreg_is_the_sum_of_its_three_terms():
    draw = np.random.default_rng(0)
    first, second = draw.normal(0, 0.7, (6, 3)), draw.normal(0.2, 0.5, (6, 3))
    invariance = sum((a - b) ** 2 for a, b in zip(first.flat, second.flat, strict=True)) / 18
    variance = covariance = 0.0
    for part in (first, second):
        for j in range(3):
            spread = np.sqrt(np.var(part[:, j], ddof=1) + 1e-4)
            variance += max(0.0, 1 - spread) / 3 / 2
            for k in range(3):
                if j != k:
                    covariance += np.cov(part[:, j], part[:, k], ddof=1)[0, 1] ** 2 / 3
    method = Vicreg(kind="vicreg", invariance=2.0, variance=3.0, covariance=5.0)
    found = compute_loss(torch.tensor(first), torch.tensor(second), method)
    assert float(found) == pytest.approx(2 * invariance + 3 * variance + 5 * covariance, rel=1e-9)


def test_simclr_is_the_mean_over_all_views_of_finding_the_partner():
    draw = np.random.default_rng(1)
    first, second = draw.normal(size=(4, 3)), draw.normal(size=(4, 3))
    views = [row / np.linalg.norm(row) for row in (*first, *second)]
    total = 0.0
    for i in range(8):
        partner = i + 4 if i < 4 else i - 4
        others = sum(np.exp(views[i] @ views[k] / 0.3) for k in range(8) if k != i)
        total -= np.log(np.exp(views[i] @ views[partner] / 0.3) / others)
    method = Simclr(kind="simclr", temperature=0.3)
    found = compute_loss(torch.tensor(first), torch.tensor(second), method)
    assert float(found) == pytest.approx(total / 8, rel=1e-9)


def test_spread_and_rank_tell_collapse():
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(500, 16, generator=generator)
    alike = torch.ones(500, 16) + 1e-3 * free
    line = torch.randn(500, 1, generator=generator) * torch.ones(1, 16)
    assert measure_spread(free) == pytest.approx(1, abs=0.05)
    assert measure_spread(alike) < 0.01
    assert measure_rank(free) == pytest.approx(16, abs=0.5)
    assert measure_rank(line) == pytest.approx(1, abs=0.01)
    assert measure_rank(torch.ones(5, 3)) == 1


# --- views ----------------------------------------------------------------------------------------


def test_unscaled_views_are_turned_squares_of_the_very_pixels():
    images = torch.rand(12, 3, 10, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = ViewSettings.model_construct(size=6, scale=(0.5, 1.0), unscaled=1.0)
    views = cut_views(images, settings, torch.Generator().manual_seed(1))
    found = set()
    for image, view in zip(images, views, strict=True):
        for turn in range(8):
            turned = torch.rot90(image, turn % 4, (1, 2))
            turned = turned.flip(2) if turn >= 4 else turned
            cuts = turned.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4)
            near = (cuts - view).abs().amax((2, 3, 4)) < 1e-5
            if near.any():
                found.add(turn)
                break
        else:
            pytest.fail("the view is no square of the image")
    assert len(found) > 3


def test_scaled_views_show_as_much_as_the_scale_says():
    ramp = torch.linspace(-1, 1, 40).view(1, 1, 1, 40).expand(200, 3, 40, 40)
    settings = ViewSettings(size=32, scale=(0.5, 0.75), unscaled=0)
    views = cut_views(ramp, settings, torch.Generator().manual_seed(0))
    shown = (views.amax((1, 2, 3)) - views.amin((1, 2, 3))) / 2
    assert 0.45 < shown.min() < 0.55 and 0.68 < shown.max() < 0.76


def test_each_change_of_a_view_does_something_and_stays_in_range():
    pixels = torch.from_numpy(np.stack([np.asarray(draw_image(i)) for i in range(6)]))
    pixels = pixels.permute(0, 3, 1, 2)
    off = {"size": 48, "scale": (1, 1), "unscaled": 1, "stain_jitter": 0, "blur": 0}

    def vary(**changes):
        settings = ViewSettings.model_validate({**off, **changes})
        return vary_views(pixels, settings, torch.Generator().manual_seed(0))

    plain = vary()
    for changes in ({"stain_jitter": 0.2}, {"contrast": 0.2}, {"blur": 1}, {"noise": 0.1}):
        varied = vary(**changes)
        assert (varied - plain).abs().mean() > 0.5, changes
        assert varied.min() >= 0 and varied.max() <= 255


def test_blur_is_gaussian_and_keeps_the_mean():
    point = torch.zeros(2, 3, 15, 15)
    point[:, :, 7, 7] = 1
    blurred = blur_images(point, torch.Generator().manual_seed(0))
    assert torch.allclose(blurred.sum((2, 3)), torch.ones(2, 3))
    profile = blurred[0, 0, 7]
    assert profile[7] > profile[8] > profile[9] > 0
    assert not torch.allclose(blurred[0], blurred[1])  # a width for each image
    assert torch.allclose(blurred[0], blurred[0].mT)


def test_pairs_are_keyed_by_step_and_never_show_held_out_images(images, tmp_path):
    flat = {"unscaled": 1, "stain_jitter": 0, "contrast": 0, "blur": 0, "noise": 0}
    recipe = make_recipe(images, data={"image_size": 32}, views=flat)
    loaded = load_training_images(recipe.data, None, recipe.seed, tmp_path / "cache")
    kept = {round(float(image.mean()), 2) for image in loaded.pixels[~loaded.held_out]}
    assert 0 < loaded.held_out.sum() < 30
    for step in range(10):
        _, (first, second) = draw_pair(recipe, loaded, step)
        means = first.mean((1, 2, 3))
        assert torch.allclose(means, second.mean((1, 2, 3)), atol=1e-3)  # of the same images
        assert {round(float(mean), 2) for mean in means} <= kept
    again, other = (draw_pair(recipe, loaded, step)[1][0] for step in (3, 4))
    assert torch.equal(again, draw_pair(recipe, loaded, 3)[1][0])
    assert not torch.equal(again, other)


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("vicreg", {}),
        ("simclr", {}),
        ("simclr", {"teacher": {"encoder": "color-texture", "weight": 2.0}}),
    ],
)
def test_resumed_equals_uninterrupted(images, tmp_path, method, changes, monkeypatch):
    settings = {"kind": method, "hidden": 16, "dim": 16}
    recipe = make_recipe(images, method=settings, **changes)
    seen = []
    whole = train(recipe, tmp_path / "whole", lambda *state: seen.append(state))
    assert [step for step, _, measured in seen if "loss" in measured] == [4]

    def stop(step, steps, measured):
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("factory.train.loop.Trainer.log_every", 3)
    with pytest.raises(KeyboardInterrupt):  # after step 3; the checkpoint is of step 2
        train(recipe, tmp_path / "parts", stop)
    assert forked.find_step(tmp_path / "parts") == 2
    assert train(recipe, tmp_path / "parts") == whole
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow("test_resumed_equals_uninterrupted")
def test_killed_training_goes_on_to_the_same_weights(images, tmp_path):
    recipe = describe_recipe(images, 60, training={"checkpoint_every": 10, "validate_every": 20})
    trained = partial(train, EncoderRecipe.model_validate(recipe))
    assert_same_weights(*kill_and_go_on("encoder", recipe, trained, tmp_path))


def test_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    train(make_recipe(images, 2), tmp_path / "out")
    with pytest.raises(MismatchError, match=r"seed: 3 -> 4"):
        train(make_recipe(images, 2, seed=4), tmp_path / "out")
    with pytest.raises(MismatchError, match=r"training\.steps: 2 -> 3"):
        train(make_recipe(images, 3), tmp_path / "out")


@pytest.mark.slow("test_without_held_out_images_the_last_weights_are_kept")
def test_it_learns_to_tell_images_apart_and_keeps_the_best_weights(images, tmp_path):
    """Nearest neighbours in the features share the colour, which no one told."""
    seen = []
    training = {"batch_size": 16, "learning_rate": 5e-3, "validate_every": 20, "ema_decay": 0.8}
    method = {"kind": "simclr", "hidden": 32, "dim": 16}
    recipe = make_recipe(images, 60, training=training, method=method)
    out = tmp_path / "out"
    result = train(recipe, out, lambda step, steps, measured: seen.append((step, measured)))
    losses = {step: found["held_out_loss"] for step, found in seen if "held_out_loss" in found}
    assert list(losses) == [20, 40, 60]
    assert result["best_step"] == min(losses, key=losses.get)
    assert losses[60] < losses[20]
    assert result["held_out_loss"] == min(losses.values())
    assert result["feature_spread"] > 0.1 and result["feature_rank"] > 2
    logged = [json.loads(line) for line in (out / "training" / "log.jsonl").open()]
    assert {"loss", "held_out_loss", "embedding_spread"} <= {key for row in logged for key in row}
    pixels = np.stack([np.asarray(draw_image(number)) for number in range(100, 140)])
    features = load_encoder(str(out), device="cpu").encode(pixels)
    features = (features - features.mean(0)) / features.std(0)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2) + 1e9 * np.eye(40)
    assert (distance.argmin(1) % 4 == np.arange(40) % 4).mean() > 0.8


def test_without_held_out_images_the_last_weights_are_kept(images, tmp_path):
    result = train(make_recipe(images, 3, data={"held_out": 0}), tmp_path / "out")
    assert (result["step"], result["best_step"]) == (3, 3)
    assert "held_out_loss" not in result
    assert "of the last step" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("method", ["vicreg", "simclr"])
def test_collapse_is_noticed_and_says_what_to_change(tmp_path, method):
    """Images that are all alike cannot be told apart, whatever the loss does."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.new("RGB", (48, 48), (200, 120, 180)).save(tmp_path / "images" / f"{number}.png")
    still = {"stain_jitter": 0, "contrast": 0, "blur": 0, "noise": 0}
    recipe = make_recipe(
        tmp_path / "images",
        method={"kind": method, "hidden": 16, "dim": 16},
        views=still,
        training={"min_spread": 0.02},
    )
    do = {"vicreg": "method.variance", "simclr": "training.batch_size"}[method]
    with pytest.raises(TrainingError, match=rf"step 2: collapsed, .*_spread is .*{do}"):
        train(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "encoder.safetensors").exists()


@pytest.mark.slow("test_collapse_is_noticed_and_says_what_to_change")
def test_vicreg_without_variance_and_covariance_collapses(images, tmp_path):
    """What the two terms are for: with invariance alone the embeddings become alike."""
    seen = {}
    for weight in (0.0, 25.0):
        method = {"kind": "vicreg", "hidden": 16, "dim": 16, "variance": weight}
        recipe = make_recipe(
            images,
            80,
            method={**method, "covariance": weight / 25},
            training={"batch_size": 16, "learning_rate": 0.02, "validate_every": 80},
        )
        seen[weight] = train(recipe, tmp_path / str(weight))
    assert seen[0.0]["embedding_spread"] < 0.5 * seen[25.0]["embedding_spread"]


def test_numbers_that_are_none_count_as_collapsed(images):
    recipe = make_recipe(images, training={"min_spread": 0.05})
    nothing = {"embedding_spread": float("nan"), "feature_spread": 0.5}
    with pytest.raises(TrainingError, match="embedding_spread is nan"):
        check_collapse(recipe, nothing, 7)
    check_collapse(recipe, {"embedding_spread": 0.06, "feature_spread": 0.5}, 7)


def test_rate_rises_and_falls_along_a_cosine(images):
    options = make_recipe(images, steps=10).training
    rates = [compute_rate(options, step) for step in range(10)]
    assert rates[0] == 0.5
    assert rates[5] == pytest.approx(0.5)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[9] < 0.05


# --- labels, sources and what comes out -----------------------------------------------------------


def test_labels_are_never_read(images, tmp_path):
    """The same images in class folders, in one folder of a class and in none: the same weights."""
    for number, path in enumerate(sorted(images.iterdir())):
        for place in (("classes", "tumor" if number > 14 else "normal"), ("one", "tumor")):
            folder = tmp_path.joinpath(*place)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    for name in ("images", "classes", "one"):
        train(make_recipe(tmp_path / name, 2, data={"held_out": 0}), tmp_path / f"{name}-out")
    assert_same_weights(tmp_path / "images-out", tmp_path / "classes-out")
    assert_same_weights(tmp_path / "images-out", tmp_path / "one-out")
    described = json.loads((tmp_path / "images-out" / "encoder.json").read_text())
    assert described["labels_seen"] is False
    assert "**Labels seen**: none" in (tmp_path / "images-out" / "README.md").read_text()
    labelled = {"images": str(images), "labels": True}
    with pytest.raises(ValueError, match="labels"):
        EncoderRecipe.model_validate({**describe_recipe(images), "data": {"sources": [labelled]}})


def test_a_source_without_an_image_to_learn_from_is_told(images, tmp_path):
    with pytest.raises(SourceError, match=r"no image is left .* lower data\.held_out"):
        train(make_recipe(images, data={"held_out": 0.9999}), tmp_path / "out")


def test_the_export_loads_and_encodes_each_image_by_itself(images, tmp_path):
    out = tmp_path / "out"
    train(make_recipe(images), out)
    weights = load_file(out / "encoder.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16, torch.int64}
    assert not any(name.startswith("head") for name in weights)
    encoder = load_encoder(str(out), device="cpu")
    pixels = np.stack([np.asarray(draw_image(number)) for number in range(20)])
    features = encoder.encode(pixels)
    assert features.shape == (20, 16) == (20, encoder.dim)
    assert np.isfinite(features).all() and features.std(0).max() > 0
    alone = np.concatenate([encoder.encode(image[None]) for image in pixels])
    mixed = encoder.encode(pixels[::-1])[::-1]
    np.testing.assert_allclose(features, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, mixed, rtol=1e-4, atol=1e-5)


def test_all_stages_may_be_read_by_mean_and_deviation(images, tmp_path):
    train(make_recipe(images, network={"channels": [8, 16], "readout": "stages"}), tmp_path / "out")
    encoder = load_encoder(str(tmp_path / "out"), device="cpu")
    assert encoder.dim == 48 and encoder.describe()["pooling"] == "stages"
    pixels = np.stack([np.asarray(draw_image(number)) for number in range(4)])
    features = encoder.encode(pixels)
    last = encoder.map_features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(features[:, 16:32], last.mean((2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features[:, 32:], last.std((2, 3)), rtol=1e-3, atol=1e-3)
    assert "48 features (mean and standard" in (tmp_path / "out" / "README.md").read_text()


def test_a_teacher_is_foretold_and_shares_its_name_and_terms(images, tmp_path):
    """Held-out images: the error falls below that of the mean, 1, which knows nothing."""
    teacher = {"encoder": "color-texture", "weight": 100.0}
    training = {"batch_size": 16, "learning_rate": 1e-2, "validate_every": 30, "ema_decay": 0.5}
    seen, out = [], tmp_path / "out"
    recipe = make_recipe(images, 60, teacher=teacher, training=training)
    train(recipe, out, lambda step, steps, measured: seen.append(measured))
    losses = [found["held_out_loss"] for found in seen if "held_out_loss" in found]
    assert losses[-1] < 85, losses
    catalogs = load_catalogs()
    assert list_parts(str(out), catalogs) == (str(out), "color-texture")
    assert list_parts("he-ssl", catalogs) == ("he-ssl",)
    involved = Involved("filter realism judged with it", frozenset({"color-texture"}))
    described = load_encoder(str(out), device="cpu").describe()
    parts = find_parts(str(out), described, Making((involved,), is_known=True), catalogs)
    assert parts == ("filter realism judged with it",)
    card = (out / "README.md").read_text()
    assert "**Teacher**: `color-texture`" in card and "its terms hold" in card


def test_the_card_tells_data_method_and_licence(images, tmp_path):
    export = {
        "license": "apache-2.0",
        "training_data": ["Squares (CC0 1.0)"],
        "attribution": ["Squares: drawn by a test."],
    }
    train(make_recipe(images, export=export), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("apache-2.0", "Squares (CC0 1.0)", "drawn by a test", "VICReg", "not measured"):
        assert part in card, part
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    seen = read_patients(tmp_path / "out")
    assert (seen.images, seen.unknown, seen.groups, seen.is_whole) == (30, 30, (), False)


def test_command_reads_paths_from_the_recipes_folder(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    command = train_elsewhere("encoder", describe_recipe("images", 2), tmp_path)
    plain = CliRunner().invoke(main, command[:-1])
    assert "factory train classifier --encoder" in plain.stdout
    assert call("validate", command[2]).exit_code == 0


def test_settings_say_what_is_wrong(tmp_path):
    for changes, message in (
        ({"views": {"size": 64}}, "larger than data.image_size"),
        ({"views": {"scale": [0.9, 0.2]}}, "0 < low <= high <= 1"),
        ({"method": {"kind": "byol"}}, "byol"),
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(describe_recipe("images", **changes)))
        with pytest.raises(RecipeError, match=message):
            load_encoder_recipe(path)
    source = {"images": "x", "facts": {"organ": "colon"}}
    path.write_text(yaml.safe_dump({**describe_recipe("x"), "data": {"sources": [source]}}))
    with pytest.raises(RecipeError, match="learns no captions"):
        load_encoder_recipe(path)
