"""Training a generator of parallel streams: resumed equals uninterrupted, all streams learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, MismatchError, SourceError
from factory.data.patients import read_patients
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.multi_guidance import NAMES
from factory.train.generator.recipe import load_training_recipe
from factory.train.multi.batches import MultiBatch, draw_batch
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial, prepare_material
from factory.train.multi.train import MultiTrainer, choose_precision
from factory.train.multi.views import describe_measures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of two pictures with a mask and two values each; bright and dark tissue."""
    root = tmp_path_factory.mktemp("data")
    rows = ["name,HYPOXIA,MITOSIS"]
    for folder in ("images/plain", "masks/plain"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        draw = np.random.default_rng(number)
        name = f"slide{number // 2}-{number % 2}"
        mask = np.zeros((40, 40), np.uint8)
        mask[5 : 15 + number, 8:20] = 3
        pixels = np.full((40, 40, 3), (225, 140 + number, 190)) + draw.integers(
            -15, 15, (40, 40, 3)
        )
        pixels[mask > 0] = (90, 50, 150)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            root / f"images/plain/{name}.png"
        )
        Image.fromarray(mask).save(root / f"masks/plain/{name}.png")
        rows.append(f"{name},{number / 6 - 1},{draw.normal():.3f}")
    (root / "values.csv").write_text("\n".join(rows))
    return root


def describe_recipe(data: Path, steps: int = 4, **changes: Any) -> dict[str, Any]:
    source = {
        "images": str(data / "images"),
        "views": 2,
        "mpp": 0.5,
        "labels": False,
        "group_pattern": r"(slide\d+)",
        "masks": {"folder": str(data / "masks"), "labels": {3: "nucleus"}},
        "values": {"table": str(data / "values.csv"), "key": "name"},
        **changes.pop("source", {}),
    }
    network = {
        **{"kind": "multi", "fold": 4, "merge": 2, "outer_dim": 16, "dim": 32, "depth": 2},
        **{"heads": 2, "stream_dim": 16, "text_dim": 32, "text_layers": 1, "vocabulary": 400},
        **changes.pop("network", {}),
    }
    training = {
        **{"steps": steps, "batch_size": 4, "warmup_steps": 2, "decay_steps": 2},
        **{"alignment": 0.5, "alignment_pooled": 0.1, "alignment_block": 1, "checkpoint_every": 2},
        **changes.pop("training", {}),
    }
    return {
        "name": "tiny-multi",
        "seed": 3,
        "data": {"image_size": 32, "held_out": 0.3, "encoder": "he-ssl", "sources": [source]},
        "captions": {"kind": "measured", "grid": "he-attributes"},
        "network": network,
        "training": training,
        "validation": {"every": 100, "images": 4},
        "sampling": {"steps": 2, "scheduler": "FlowMatchEulerDiscrete"},
        **changes,
    }


def make_recipe(data: Path, steps: int = 4, **changes: Any) -> MultiRecipe:
    return MultiRecipe.model_validate(describe_recipe(data, steps, **changes))


def train(recipe: MultiRecipe, out: Path) -> dict[str, Any]:
    found = MultiTrainer.open(recipe, load_catalogs(), out).train(lambda *state: None)
    assert found is not None
    return found


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    pipeline = MultiPipeline.from_pretrained(folder)
    parts = {"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder}
    return {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}


@pytest.fixture(scope="module")
def material(data: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiMaterial:
    return prepare_material(make_recipe(data), load_catalogs(), tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a training goes on from."""
    folder = tmp_path_factory.mktemp("base")
    train(make_recipe(data, 2), folder)
    return folder


def test_resumed_equals_uninterrupted_and_what_comes_out_is_a_model(
    data: Path, tmp_path: Path
) -> None:
    whole = train(make_recipe(data, 3, training={"decay_steps": 0}), tmp_path / "whole")
    train(make_recipe(data, 2, training={"decay_steps": 0}), tmp_path / "parts")
    train(make_recipe(data, 3, training={"decay_steps": 0}), tmp_path / "parts")
    first, second = read_weights(tmp_path / "whole"), read_weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)
    told = {"caption", "embedding", "vector", "control", "scale"}
    assert {name for name in whole if name.startswith("gap_")} == {f"gap_{name}" for name in told}
    lines = (tmp_path / "whole/training/log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["validation_loss"] == pytest.approx(whole["validation_loss"], 1e-3)
    entry = yaml.safe_load((tmp_path / "whole/models/tiny-multi.yaml").read_text())
    assert entry["family"] == "multi" and set(entry["optional"]) == told | {
        "reference",
        "class_name",
    }
    assert entry["labels_seen"] is False
    assert (tmp_path / "whole/samples.png").exists()
    seen = read_patients(tmp_path / "whole")
    assert seen.is_whole and 1 < len(seen.groups) <= seen.images
    record = next((tmp_path / "whole/training").glob("checkpoint-*/*.json"))
    shaping = json.loads(record.read_text())["recipe"]["training"]  # what older records have, too
    assert "control_rate" not in shaping and shaping["reading_steps"] == 0
    with pytest.raises(MismatchError, match=r"seed: 3 -> 4"):
        train(make_recipe(data, 3, seed=4), tmp_path / "parts")


def test_a_batch_has_what_its_images_have_and_leaves_some_out(
    data: Path, material: MultiMaterial
) -> None:
    recipe = make_recipe(data, training={"batch_size": 200, "embedding_rate": 0.5})
    batch = draw_batch(recipe, material.collection, material.grid, material.scales, (0,))
    again = draw_batch(recipe, material.collection, material.grid, material.scales, (0,))
    assert torch.equal(batch.images, again.images) and batch.captions == again.captions
    shares = {name: batch.streams.present(name) for name in NAMES}
    assert shares["class_name"] is None
    kept = {n: float(v.float().mean()) for n, v in shares.items() if v is not None}
    told = float(np.mean([bool(text) for text in batch.captions]))
    for share in (kept["vector"], kept["control"], kept["scale"], told):
        assert 0.73 < share < 0.89  # .9 * .9
    assert 0.3 < kept["embedding"] < 0.5
    nothing = [not any(bool(shares[n][row]) for n in kept) for row in range(200)]  # type: ignore[index]
    assert 0.05 < np.mean(nothing) < 0.17
    recipe = make_recipe(data, training={"batch_size": 200, "control_rate": 0.25})
    fewer = draw_batch(recipe, material.collection, material.grid, material.scales, (0,)).streams
    assert torch.equal(fewer.present("scale"), shares["scale"])  # type: ignore[arg-type]
    assert 0.12 < float(fewer.present("control").float().mean()) < 0.3  # type: ignore[union-attr]


def test_a_source_may_be_shown_without_what_tells_most_and_values_get_noise(
    data: Path, material: MultiMaterial
) -> None:
    def draw(**changes: Any) -> MultiBatch:
        recipe = make_recipe(data, **changes)
        return draw_batch(recipe, material.collection, material.grid, material.scales, (0,))

    plain = draw(training={"batch_size": 200})
    alone = draw(training={"batch_size": 200}, source={"alone": 1.0})
    assert not any(alone.captions) and alone.streams.present("embedding") is None
    for name in ("vector", "control", "scale"):
        assert torch.equal(alone.streams.present(name), plain.streams.present(name))  # type: ignore[arg-type]
    noisy = draw(training={"batch_size": 200, "vector_noise": 0.5})
    before, after = plain.streams.vector, noisy.streams.vector
    assert before is not None and after is not None
    assert torch.equal(before.isnan(), after.isnan())
    moved = (after - before).numpy() / material.scales["vector"][1]
    assert np.nanstd(moved, axis=0) == pytest.approx(0.5, rel=0.2)
    assert torch.equal(noisy.images, plain.images)


def test_a_model_foretells_features_of_values_and_a_training_goes_on_from_it(
    data: Path, material: MultiMaterial, tmp_path: Path
) -> None:
    train(make_recipe(data, 1, training={"foretell": True}), tmp_path / "first")
    network = MultiPipeline.from_pretrained(tmp_path / "first").transformer
    assert network.config.foretells
    views = material.collection.sets[0]
    rows = ~views.held_out & ~np.isnan(views.vector).all(1)
    told = network.foretell(torch.from_numpy(views.vector[rows]).to(network.dtype)).numpy()
    assert views.features is not None
    seen = views.features[rows]
    error, spread = np.square(told - seen).mean(), np.square(seen - seen.mean(0)).mean()
    assert error < 0.98 * spread
    train(make_recipe(data, 1, init=str(tmp_path / "first")), tmp_path / "second")
    assert not MultiPipeline.from_pretrained(tmp_path / "second").transformer.config.foretells
    with pytest.raises(InputError, match=r"training.foretell: needs data.encoder and values"):
        prepare_material(
            make_recipe(data, source={"values": None}, training={"foretell": True}),
            load_catalogs(), tmp_path / "views",
        )  # fmt: skip


def test_masks_turn_with_their_images_and_scales_follow_the_cut(
    data: Path, material: MultiMaterial
) -> None:
    recipe = make_recipe(data, training={"batch_size": 32, "stain_jitter": 0.0})
    batch = draw_batch(recipe, material.collection, material.grid, {}, (1,))
    control = batch.streams.control
    assert control is not None
    dark = batch.images[:, 1] < -0.3
    has = (control >= 0).flatten(1).any(1)
    agree = (dark == (control == 1)).float().mean((1, 2))
    assert has.sum() > 20 and agree[has].min() > 0.9
    views = material.collection.sets[0]
    whole, cut = views.mpp[0::2], views.mpp[1::2]
    assert np.allclose(whole, 0.5) and (cut <= 0.5 * 40 / 32 + 1e-6).all() and (cut < 0.5).any()


def test_nuclei_are_found_where_no_mask_is_given(data: Path, tmp_path: Path) -> None:
    """What stain alone tells is where the drawn masks are; each kind of mask has its own views."""
    found = []
    for masks in (
        {"folder": str(data / "masks"), "labels": {3: "nucleus"}},
        {"labels": {1: "nucleus"}},
    ):
        recipe = make_recipe(data, source={"masks": masks})
        found.append(prepare_material(recipe, load_catalogs(), tmp_path).collection)
    drawn, told = (each.sets[0] for each in found)
    assert found[0].digest != found[1].digest and np.array_equal(drawn.pixels, told.pixels)
    assert (
        drawn.masks is not None and told.masks is not None and set(np.unique(told.masks)) == {0, 1}
    )
    both = (drawn.masks & told.masks).sum() * 2 / (drawn.masks.sum() + told.masks.sum())
    assert both > 0.9
    with pytest.raises(ValueError, match=r"nuclei have the value 1: name it alone, got 3"):
        make_recipe(data, source={"masks": {"labels": {3: "nucleus"}}})


def test_views_outlive_a_change_of_a_grids_words_but_not_of_its_measures() -> None:
    grid = load_catalogs().find_captions("he-attributes")
    reworded = grid.model_copy(update={"templates": (*grid.templates, "{density}, {size}.")})
    assert describe_measures(grid) == describe_measures(reworded) is not None
    fewer = {name: each for name, each in grid.measures.items() if name != "density"}
    assert describe_measures(grid) != describe_measures(grid.model_copy(update={"measures": fewer}))


def test_slides_are_held_out_whole_and_so_are_named_folders(data: Path, tmp_path: Path) -> None:
    recipe = make_recipe(data, source={"held_out_classes": ["plain"]})
    with pytest.raises(InputError, match="nothing is left to learn from"):
        prepare_material(recipe, load_catalogs(), tmp_path)
    views = prepare_material(make_recipe(data), load_catalogs(), tmp_path).collection.sets[0]
    held = views.held_out.reshape(6, 4)
    assert (held.all(1) == held.any(1)).all() and 0 < held.any(1).sum() < 6


def test_shared_attention_and_the_other_prediction_train_too(data: Path, tmp_path: Path) -> None:
    network = {"attention": "shared", "prediction": "velocity", "merge": 1}
    changes = {"alignment": 0.0, "alignment_pooled": 0.0}
    train(make_recipe(data, 1, network=network, training=changes), tmp_path / "out")
    pipeline = MultiPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.config.prediction == "velocity"
    assert pipeline.transformer.config.attention == "shared"


def test_a_training_goes_on_from_a_model_whose_values_keep_their_names(
    data: Path, base: Path, tmp_path: Path
) -> None:
    table = (data / "values.csv").read_text().splitlines()
    swapped = [",".join(line.split(",")[i] for i in (0, 2, 1)) + ",1" for line in table[1:]]
    (tmp_path / "more.csv").write_text("\n".join(["name,MITOSIS,HYPOXIA,ANOTHER", *swapped]))
    changes = {"values": {"table": str(tmp_path / "more.csv"), "key": "name"}, "labels": True}
    recipe = make_recipe(data, 1, init=str(base), source=changes)
    network = MultiTrainer(
        recipe,
        prepare_material(recipe, load_catalogs(), tmp_path),
        Accelerator(cpu=True),
        tmp_path / "more",
    ).network
    before, after = read_weights(base), network.state_dict()
    kind = "transformer.streams.kinds.vector.slopes"
    assert after[kind].shape[0] == 3
    assert torch.equal(after[kind][1:].half(), before[kind].half())
    same = [name for name in before if "vector" not in name]
    assert len(same) > 40
    assert all(torch.equal(after[name].half(), before[name].half()) for name in same)
    assert "transformer.streams.kinds.class_name.weight" in after.keys() - before.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {"dim": 64}}, "init: transformer.* the network settings of the model"),
        ({"source": {"masks": {"folder": "masks", "labels": {3: "gland"}}}}, "masks of nucleus"),
        (
            {"network": {"prediction": "velocity"}},
            r"network.prediction: velocity, but .* has image",
        ),
        ({"network": {"data_std": 0.25}}, "network.data_std: 0.25, but .* has 0.5"),
        ({"init": "nano-he"}, "neither a catalog id nor a folder of a MultiPipeline"),
        ({"init": "nowhere"}, "'nowhere' is neither"),
    ],
)
def test_a_model_to_go_on_from_must_fit(
    data: Path, base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    if "masks" in changes.get("source", {}):
        changes["source"]["masks"]["folder"] = str(data / "masks")
    with pytest.raises(InputError, match=said):
        train(make_recipe(data, 1, **({"init": str(base)} | changes)), tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"masks": {"folder": "nowhere", "labels": {3: "nucleus"}}}, "no readable mask of"),
        ({"values": {"table": "nowhere.csv", "key": "name"}}, "nowhere.csv: cannot be read"),
    ],
)
def test_what_goes_with_images_must_be_there(
    data: Path, tmp_path: Path, source: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        prepare_material(make_recipe(data, source=source), load_catalogs(), tmp_path)


def test_the_recipe_says_which_network_and_where_its_data_lie(data: Path, tmp_path: Path) -> None:
    described = describe_recipe(Path("data"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(described))
    recipe, _ = load_training_recipe(path)
    assert isinstance(recipe, MultiRecipe)
    source = recipe.data.sources[0]
    assert source.masks is not None and source.values is not None
    places = (source.images, source.masks.folder, source.values.table)
    assert all(each.is_relative_to(tmp_path / "data") for each in places)


@pytest.mark.slow("test_resumed_equals_uninterrupted_and_what_comes_out_is_a_model")
def test_captions_learn_to_say_what_embeddings_show(tmp_path: Path) -> None:
    """Only what reads captions changes, and what the blocks make of it is what embeddings have."""
    (tmp_path / "images/all").mkdir(parents=True)
    for number in range(8):
        color = ((238, 200, 220), (90, 50, 150))[number % 2]
        noisy = np.random.default_rng(number).integers(-9, 9, (32, 32, 3)) + color
        Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / f"images/all/{number}.png")
    source = {"masks": None, "values": None, "group_pattern": None}
    plain = make_recipe(tmp_path, 1, source=source, training={"batch_size": 64})
    train(plain, tmp_path / "plain")
    options = {**plain.training.model_dump(), "reading_steps": 120}
    recipe = MultiRecipe.model_validate({**plain.model_dump(), "training": options})
    assert train(recipe, tmp_path / "out")["reading"] > 0.3
    before, after = (read_weights(tmp_path / each) for each in ("plain", "out"))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all("caption" in each or each.startswith("text_encoder") for each in changed)
    kv = "transformer.blocks.1.cross_kv.{}.weight"
    assert torch.equal(after[kv.format("caption")], after[kv.format("embedding")])
    silent = MultiRecipe.model_validate({**recipe.model_dump(), "captions": None})
    with pytest.raises(InputError, match=r"needs captions and data\.encoder"):
        train(silent, tmp_path / "other")


def test_bfloat16_is_taken_where_it_is_not_emulated() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("bfloat16", cpu) is torch.bfloat16
    assert choose_precision("float32", cpu) is torch.float32
    has = torch.cpu._is_avx512_bf16_supported()
    assert choose_precision("auto", cpu) is (torch.bfloat16 if has else torch.float32)
