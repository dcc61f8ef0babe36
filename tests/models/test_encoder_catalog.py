"""Encoders by catalog id: what the cards demand, gates, pooling; one forward for all filters."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.errors import InputError, RecipeError
from factory.models.encoders import ENCODERS, find_weights, load_encoder
from factory.models.encoders.kinds.packaged import Loading, pool_tokens
from factory.models.encoders.kinds.timm import TimmKind
from factory.models.encoders.pool import EncoderPool, RememberingEncoder
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe

LICENCE = {"id": "mit", "url": "https://example.org/card", "date_read": "2026-11-20"}
GATED = (
    "uni",
    "uni2-h",
    "virchow2",
    "h-optimus-1",
    "conch",
    "musk",
    "h0-mini",
    "virchow",
    "gigapath",
    "gigapath-flash",
    "titan",
    "mstar",
    "open-midnight",
)


def make_images(count, size=32, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size // 4, size // 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def write_entry(root, name="mine", **fields):
    folder = root / "encoders"
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"id": name, "licence": LICENCE} | fields
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(entry))
    return load_catalogs([root])


def write_recipe(folder, encoder):
    (folder / "real").mkdir(exist_ok=True)
    recipe = {
        "name": "x",
        "generator": {"model": "fake"},
        "conditions": [{"kind": "class", "per_class": {"normal": 1}}],
        "filters": [
            {"kind": "realism", "images": "real", "encoder": encoder, "min_realism_quantile": 0.1}
        ],
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe(folder / "r.yaml")


def find_messages(loaded, check_files=True):
    try:
        check_recipe(loaded, check_files)
    except RecipeError as error:
        return {problem.field: problem.message for problem in error.problems}
    return {}


# --- shipped entries -----------------------------------------------------------------------------


def test_shipped_encoders_are_sound():
    catalogs = load_catalogs()
    names = catalogs.list_ids("encoders")
    assert {"color-texture", "uni2-h", "virchow2", "h-optimus-0", "phikon", "plip"} <= set(names)
    for name in names:
        entry = catalogs.find_encoder(name)
        library, _, rest = entry.source.partition(":")
        local = Path(entry.source).is_dir() or entry.source == "color-texture"
        assert local or (library in ENCODERS.names and rest), name
        assert entry.licence.url.startswith("https://"), name
        assert entry.title, name
        assert entry.reads_text == (library == "open_clip"), name
    assert {name for name in names if catalogs.find_encoder(name).licence.gated} == set(GATED)


def test_timm_arguments_of_the_cards_build_the_networks_that_they_describe():
    """On the meta device: hundreds of millions of parameters, none of them allocated."""
    entry = load_catalogs().find_encoder("uni2-h")
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    with torch.device("meta"):
        module = timm.create_model("vit_giant_patch14_224", **{**entry.arguments, **layers})
    assert module.num_features == entry.dim
    assert round(sum(each.numel() for each in module.parameters()) / 1e6) == 681
    assert module.num_prefix_tokens == 9


def test_an_unknown_encoder_is_refused_with_the_nearest(tmp_path):
    message = find_messages(write_recipe(tmp_path, "uni2h"))["filters[0].encoder"]
    assert "encoder 'uni2h': no such folder" in message
    assert "uni2-h" in message


def test_what_an_encoder_of_a_library_lacks_is_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(TimmKind, "explain_missing", lambda kind: f"{kind.name}: put it there")
    message = find_messages(write_recipe(tmp_path, "timm:resnet18"))["filters[0].encoder"]
    assert "resnet18: put it there" in message


def test_a_gated_encoder_without_a_token_is_refused_before_any_sampling(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    loaded = write_recipe(tmp_path, "uni2-h")
    message = find_messages(loaded)["filters[0].encoder"]
    assert "accept its terms on https://huggingface.co/MahmoodLab/UNI2-h" in message
    assert "HF_TOKEN" in message
    assert "filters[0].encoder" not in find_messages(loaded, check_files=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert "filters[0].encoder" not in find_messages(loaded)


def test_every_place_that_names_an_encoder_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    loaded = write_recipe(tmp_path, "color-texture")
    described = yaml.safe_load((tmp_path / "r.yaml").read_text())
    described["filters"] = [{"kind": "zero_shot", "encoder": "mine", "classes": "pcam"}]
    described["pick"] = {"keep": "diverse", "encoder": "virchow2"}
    described["catalogs"] = ["catalog"]
    gated = {**LICENCE, "gated": True}
    source = "open_clip:hf-hub:o/n"
    write_entry(tmp_path / "catalog", source=source, dim=8, reads_text=True, licence=gated)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(described))
    loaded = load_recipe(tmp_path / "r.yaml")
    messages = find_messages(loaded)
    assert "mine is gated" in messages["filters[0].encoder"]
    assert "virchow2 is gated" in messages["pick.encoder"]


def test_one_encoder_has_one_name_whichever_way_it_is_named():
    catalogs = load_catalogs()
    named = ("uni2-h", "timm:hf-hub:MahmoodLab/UNI2-h", "timm:hf-hub:MahmoodLab/UNI2-h@main")
    assert {find_weights(name, catalogs) for name in named} == {"MahmoodLab/UNI2-h"}
    assert find_weights("color-texture", catalogs) == "color-texture"
    assert find_weights("torchvision:resnet18", catalogs) == "resnet18"


# --- entries of one's own ------------------------------------------------------------------------


def write_vit(root, **fields):
    return write_entry(
        root,
        source="timm:vit_tiny_patch16_224?pretrained=false",
        arguments={"img_size": 32, "reg_tokens": 2, "depth": 1, "act_layer": "SiLU"},
        **{"dim": 192, **fields},
    )


def test_class_token_and_mean_of_patches_are_joined(tmp_path):
    catalogs = write_vit(tmp_path, pooling="cls+mean", dim=384, image_size=32, batch_size=4)
    encoder = load_encoder("mine", device="cpu", catalogs=catalogs)
    images = make_images(5)
    torch.manual_seed(0)
    arguments = catalogs.find_encoder("mine").arguments
    module, _, preprocess, _ = TimmKind("timm:vit").build(
        "vit_tiny_patch16_224", Loading(False, arguments=arguments, image_size=32)
    )
    from PIL import Image

    batch = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        tokens = module.eval().forward_features(batch)
    assert tokens.shape == (5, 1 + 2 + 4, 192)
    expected = torch.cat((tokens[:, 0], tokens[:, 3:].mean(1)), 1).numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=1e-3, atol=1e-4)
    described = encoder.describe()
    assert (described["id"], described["pooling"], described["dim"]) == ("mine", "cls+mean", 384)


def test_mean_and_std_of_the_entry_replace_the_models(tmp_path):
    catalogs = write_vit(tmp_path, mean=[0.7, 0.6, 0.7], std=[0.2, 0.2, 0.2], image_size=32)
    told = load_encoder("mine", device="cpu", catalogs=catalogs).describe()["preprocessing"]
    assert "0.7000, 0.6000, 0.7000" in told
    assert "0.2000, 0.2000, 0.2000" in told


def test_half_precision_is_said_and_near(tmp_path):
    whole = load_encoder("mine", device="cpu", catalogs=write_vit(tmp_path, image_size=32))
    half_root = tmp_path / "half"
    catalogs = write_vit(half_root, image_size=32, dtype="bfloat16")
    half = load_encoder("mine", device="cpu", catalogs=catalogs)
    assert half.describe()["dtype"] == "bfloat16"
    assert "dtype" not in whole.describe()
    first, second = (each.encode(make_images(3)) for each in (whole, half))
    assert second.dtype == np.float32
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99


def test_an_entry_of_another_dimension_is_refused(tmp_path):
    catalogs = write_vit(tmp_path, dim=7, image_size=32)
    with pytest.raises(InputError, match="192 features, its catalog entry says 7"):
        load_encoder("mine", device="cpu", catalogs=catalogs)


def test_a_checkpoint_without_pooler_gives_its_class_token(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=16, image_size=32, patch_size=8)
    torch.manual_seed(0)
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    encoder = load_encoder(f"transformers:{tmp_path}", device="cpu")
    images = make_images(3)
    pixels = processor(images=[*images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=1e-3, atol=1e-5)


def test_pooling_leaves_registers_out():
    tokens = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    assert torch.equal(pool_tokens(tokens, "cls", 2), tokens[:, 0])
    joined = pool_tokens(tokens, "cls+mean", 2)
    assert torch.equal(joined[:, 3:], tokens[:, 2:].mean(1))


def test_gated_weights_name_the_page_of_the_entry(tmp_path, monkeypatch):
    catalogs = write_entry(tmp_path, source="timm:hf-hub:o/n", dim=8)

    def refuse(self, name, how):
        raise OSError("401 Client Error: it is a gated repo.")

    monkeypatch.setattr(TimmKind, "build", refuse)
    with pytest.raises(InputError, match=r"terms on https://example\.org/card, then set HF_TOKEN"):
        load_encoder("mine", catalogs=catalogs)


# --- shared encoders -----------------------------------------------------------------------------


class CountingEncoder:
    """Features are sums; counts the images that it computes."""

    dim = 2

    def __init__(self):
        self.seen = 0

    def describe(self):
        return {"id": "counting"}

    def encode(self, images):
        self.seen += len(images)
        sums = images.reshape(len(images), -1).sum(1, dtype=np.float64)
        return np.stack([sums, -sums], 1).astype(np.float32)


def test_each_image_is_computed_once_and_in_its_place():
    inner = CountingEncoder()
    encoder = RememberingEncoder(inner)
    images = make_images(6)
    twice = images[[0, 1, 0, 2, 1]]
    np.testing.assert_array_equal(encoder.encode(twice), CountingEncoder().encode(twice))
    assert inner.seen == 3
    np.testing.assert_array_equal(encoder.encode(images), CountingEncoder().encode(images))
    assert inner.seen == 6
    assert encoder.encode(images[:0]).shape == (0, 2)
    other_shape = images.reshape(6, 16, 64, 3)
    encoder.encode(other_shape)
    assert inner.seen == 12


def test_no_more_is_remembered_than_said(monkeypatch):
    monkeypatch.setattr("factory.models.encoders.pool.KEPT", 4)
    inner = CountingEncoder()
    encoder = RememberingEncoder(inner)
    images = make_images(10)
    np.testing.assert_array_equal(encoder.encode(images), CountingEncoder().encode(images))
    encoder.encode(images[-4:])
    assert inner.seen == 10
    encoder.encode(images[:1])
    assert inner.seen == 11


def test_what_one_thread_forgets_another_still_has(monkeypatch):
    """A batch is judged while the next is made, and both may ask; here one does amid the other."""
    monkeypatch.setattr("factory.models.encoders.pool.KEPT", 2)
    images, asked = make_images(4), []

    class Interrupted(CountingEncoder):
        def encode(self, images):
            if asked:
                encoder.encode(asked.pop())
            return super().encode(images)

    encoder = RememberingEncoder(Interrupted())
    encoder.encode(images[:1])
    asked.append(images[2:])  # the first is forgotten meanwhile
    np.testing.assert_array_equal(encoder.encode(images[:2]), CountingEncoder().encode(images[:2]))


def test_a_pool_loads_each_encoder_once(tmp_path):
    pool = EncoderPool(Catalogs([write_vit(tmp_path, image_size=32).folders[0]]), "cpu")
    assert pool.load("mine", Path()) is pool.load("mine", tmp_path)
    assert pool.load("color-texture", Path()) is pool.load("color-texture", tmp_path)
    assert json.dumps(pool.load("mine", Path()).describe())
