"""Encoders: hand-made features, library models with random weights, local folders, clear errors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factory.core.errors import InputError
from factory.models.encoders import load_encoder
from factory.models.encoders.learned import explain_failure, hash_weights
from factory.models.encoders.small_resnet import SmallResNet
from tests import run_alone
from tests.parts import make
from tests.tiny import save_open_clip


def make_images(count, size=64, seed=0):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, size // 4, size // 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def write_encoder(folder, channels=(4, 8), seed=0):
    torch.manual_seed(seed)
    network = SmallResNet(channels)
    save_file(network.state_dict(), folder / "encoder.safetensors")
    described = {"architecture": "small-resnet", "channels": channels}
    (folder / "encoder.json").write_text(json.dumps(described))
    return network.eval()


# --- color-texture -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 100])
def test_color_texture_features_are_finite_for_any_image(size):
    encoder = load_encoder("color-texture")
    blank = np.full((1, size, size, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    features = encoder.encode(np.concatenate([blank, blank * 0, noise]))
    assert features.shape == (4, encoder.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert len(np.unique(features, axis=0)) == 4


def test_color_texture_ignores_flips_and_turns():
    images = make_images(3)
    encoder = load_encoder("color-texture")
    features, scale = encoder.encode(images), encoder.encode(make_images(40, seed=1)).std(0) + 1e-3
    for turned in (images[:, ::-1], images[:, :, ::-1], np.rot90(images, 1, (1, 2))):
        change = np.abs(encoder.encode(np.ascontiguousarray(turned)) - features) / scale
        assert change.max() < 0.1


def test_color_texture_features_do_not_depend_on_who_shares_the_batch():
    images = make_images(70)
    encoder = load_encoder("color-texture")
    alone = np.concatenate([encoder.encode(image[None]) for image in images])
    np.testing.assert_allclose(encoder.encode(images), alone, rtol=1e-5, atol=1e-6)


def test_color_texture_needs_no_torch():
    code = (
        "import sys, numpy as np; from factory.models.encoders import load_encoder;"
        "load_encoder('color-texture').encode(np.zeros((1, 64, 64, 3), np.uint8));"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    run_alone(code)


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 64, 64, 4), (2, 16, 64, 3)])
def test_color_texture_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="images must be"):
        load_encoder("color-texture").encode(np.zeros(shape, np.uint8))


# --- learned -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "dim"),
    [
        ("torchvision:resnet18?pretrained=false", 512),
        ("timm:test_vit?pretrained=false", 64),
    ],
)
def test_library_models_with_random_weights_are_repeatable(spec, dim):
    images = make_images(3, 96)
    first, second = load_encoder(spec, device="cpu"), load_encoder(spec, device="cpu")
    features = first.encode(images)
    assert features.shape == (3, dim) == (3, first.dim)
    np.testing.assert_array_equal(second.encode(images), features)
    assert first.describe() == second.describe()
    described = first.describe()
    assert described["id"] == spec
    assert len(described["weights_sha256"]) == 64
    assert "esize" in described["preprocessing"]


def test_open_clip_local_folder(tmp_path):
    model = save_open_clip(tmp_path)
    encoder = load_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    images = make_images(2, 32)
    expected = model.encode_image(torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(encoder.encode(images), expected.detach(), rtol=1e-3, atol=1e-4)


def test_transformers_local_folder(tmp_path):
    from transformers import ViTImageProcessor

    torch.manual_seed(0)
    make("ViTModel").save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load_encoder(f"transformers:{tmp_path}", device="cpu")
    features = encoder.encode(make_images(3, 64))
    assert features.shape == (3, 32)
    assert np.isfinite(features).all()
    assert "ViTImageProcessor" in encoder.describe()["preprocessing"]


def test_local_folder_equals_the_network_that_was_saved(tmp_path):
    network = write_encoder(tmp_path)
    encoder = load_encoder(tmp_path.name, base=tmp_path.parent, device="cpu")
    images = make_images(20, 32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=1e-4, atol=1e-5)
    assert encoder.describe()["weights_sha256"] == hash_weights(network)


def test_learned_features_do_not_depend_on_who_shares_the_batch(tmp_path):
    write_encoder(tmp_path)
    encoder = load_encoder(str(tmp_path), device="cpu")
    images = make_images(21, 32)
    alone = np.concatenate([encoder.encode(image[None]) for image in images])
    np.testing.assert_array_equal(encoder.encode(images), alone)
    assert encoder.encode(images[:0]).shape == (0, encoder.dim)


def test_other_weights_have_another_hash():
    torch.manual_seed(0)
    first, second = SmallResNet((4, 8)), SmallResNet((4, 8))
    assert hash_weights(first) != hash_weights(second)
    second.load_state_dict(first.state_dict())
    assert hash_weights(first) == hash_weights(second)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("colour-texture", "no such folder and no known id: did you mean"),
        ("color-texture:v2", "there is one only: give color-texture"),
        ("torchvision:resnet19", "check the name"),
        ("timm:no_such_model", "check the name"),
        ("open_clip:ViT-B-32", "names no weights"),
        (
            "transformers:nobody/nothing",
            "check the name and the connection, or give a local folder",
        ),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(spec, told):
    with pytest.raises(InputError, match=told) as caught:
        load_encoder(spec)
    assert spec in str(caught.value)


def test_gated_weights_say_where_to_accept_and_which_token():
    error = OSError("401 Client Error: Access to model x/y is restricted: it is a gated repo.")
    assert "accept the terms on its page, then set HF_TOKEN" in explain_failure("timm:x", error)


def test_damaged_local_folder_is_named(tmp_path):
    write_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match=r"encoder\.json: not a usable encoder"):
        load_encoder(str(tmp_path))
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(InputError, match="not a usable encoder"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("side", [33, 40, 50, 75, 100])
def test_the_small_network_takes_odd_sides(side):
    """Sides that halve to odd ones: the skips round as the convolutions do."""
    network = SmallResNet().eval()
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, side, side + 7))
    assert features.shape == (1, network.dim)
    assert torch.isfinite(features).all()
