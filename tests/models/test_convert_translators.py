"""`factory models convert --kind`: the published names of translators' weights, there and back."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.models.convert import Options, convert_checkpoint
from factory.models.translators import build_network, read_config
from factory.models.translators.config import (
    HistoplexerSettings,
    ResnetSettings,
    UnetppSettings,
    UnetSettings,
    VitSettings,
)
from tests.running import call

RESNET = ResnetSettings(kind="resnet", channels=4, blocks=2)
SETTINGS: dict[str, list[Any]] = {
    "cut": [
        RESNET,
        RESNET.model_copy(update={"antialias_up": False, "norm": "batch", "dropout": True}),
        RESNET.model_copy(update={"channels": 8, "attention": True}),
        RESNET.model_copy(update={"norm": "none", "blocks": 6}),
    ],
    "cyclegan": [RESNET.model_copy(update={"antialias_down": False, "antialias_up": False})],
    "unet": [
        UnetSettings(kind="unet", channels=4, downs=5),
        UnetSettings(kind="unet", channels=4, downs=7, norm="instance"),
    ],
    "unetpp": [
        UnetppSettings(kind="unetpp", widths=(4, 6, 8)),
        UnetppSettings(kind="unetpp", widths=(4, 8), deep_supervision=True),
    ],
    "histoplexer": [
        HistoplexerSettings(kind="histoplexer", channels=8, depth=4),
        HistoplexerSettings(kind="histoplexer", channels=4, depth=6, is_finer=False),
        HistoplexerSettings(kind="histoplexer", channels=8, depth=4, is_multiscale=False),
    ],
    "gigatime-flash": [VitSettings(kind="vit", width=64, grid=2, hidden=128)],
}
CASES = [(kind, settings) for kind, found in SETTINGS.items() for settings in found]


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path


def name_cut(blocks: int, first: int = 4) -> set[str]:
    """The names of the generator of taesungp/contrastive-unpaired-translation, by hand.

    Padding, 7 x 7 convolution, norm, ReLU; twice convolution, norm, ReLU, blur; the blocks; twice
    blur, convolution, norm, ReLU; padding, 7 x 7 convolution, tanh. Instance norms have no weights.
    """
    last = first + 8 + blocks
    convolutions = [1, first, first + 4, last + 1, last + 5, last + 9]
    names = {f"model.{n}.{part}" for n in convolutions for part in ("weight", "bias")}
    names |= {f"model.{n}.filt" for n in (first + 3, first + 7, last, last + 4)}
    inner = [f"model.{first + 8 + n}.conv_block.{k}" for n in range(blocks) for k in (1, 5)]
    return names | {f"{name}.{part}" for name in inner for part in ("weight", "bias")}


def test_the_networks_have_the_published_names_and_sizes() -> None:
    with torch.device("meta"):
        cut = build_network(ResnetSettings(kind="resnet"))
        plain = ResnetSettings(kind="resnet", antialias_down=False, antialias_up=False)
        cyclegan = build_network(plain)
        pix2pix = build_network(UnetSettings(kind="unet"))
        gigatime = build_network(UnetppSettings(kind="unetpp", out_channels=23))
    assert set(cut.state_dict()) == name_cut(9)
    assert {"model.4.weight", "model.7.weight", "model.10.conv_block.1.weight"} <= set(
        cyclegan.state_dict()
    )
    assert max(int(name.split(".")[1]) for name in cyclegan.state_dict()) == 26
    counts = [sum(each.numel() for each in n.parameters()) for n in (cyclegan, pix2pix)]
    # As the published code tells at its start: 11.378 M and 54.414 M parameters.
    assert [round(count / 1e6, 3) for count in counts] == [11.378, 54.414]
    names = set(gigatime.state_dict())
    blocks = {name.split(".")[0] for name in names} - {"final"}
    assert blocks == {f"conv{i}_{j}" for i in range(5) for j in range(5 - i)}
    assert {name.split(".")[1] for name in names if name[0] == "c"} == {
        "conv1",
        "bn1",
        "conv2",
        "bn2",
    }
    assert gigatime.state_dict()["conv0_4.conv1.weight"].shape == (32, 4 * 32 + 64, 3, 3)
    assert gigatime.state_dict()["final.weight"].shape == (23, 32, 1, 1)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_the_network_is_read_off_its_weights(kind: str, settings: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network(settings).eval()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    path = save(tmp_path / "latest_net_G.pth", state)
    convert_checkpoint(path, Options(tmp_path / "mine", kind=kind), allow_pickle=True)
    config = read_config(tmp_path / "mine")
    assert config.network == settings
    written = load_file(tmp_path / "mine" / "model.safetensors")
    assert all(value.equal(written[name]) for name, value in network.state_dict().items())
    pixels = {"signed": 0.5, "logits": 0.485, "unit": 0.0}
    told = {"unetpp": "logits", "gigatime-flash": "logits", "histoplexer": "unit"}
    assert config.output == told.get(kind, "signed") and config.mean[0] == pixels[config.output]


def name_histoplexer(markers: int) -> dict[str, tuple[int, int]]:
    """Convolutions of HistoPlexer's `unet_translator` at its defaults, by hand: (out, in).

    Two levels before the U-Net of six; levels 2, 4 and 6 see the image again; `to_imc` are the
    outputs of the training at a sixteenth and a quarter of the size.
    """
    down = [(8, 3), (16, 8), (32, 19), (64, 32), (128, 67), (256, 128), (256, 259)]
    up = [(256, 512), (128, 512), (64, 256), (32, 128), (markers, 64)]
    found = {f"encoder.{n}": pair for n, pair in enumerate(down)}
    found |= {f"decoder.{n}": pair for n, pair in enumerate(up)}
    found |= {f"to_imc.{n}": (markers, taken) for n, taken in enumerate((512, 256))}
    return found | {f"center_block.{n}": (256, 256) for n in (0, 1)}


def draw_histoplexer(markers: int) -> dict[str, torch.Tensor]:
    """Random weights by the published names: convolutions, and batch norms but at outputs."""
    torch.manual_seed(3)
    state = {}
    for name, (made, taken) in name_histoplexer(markers).items():
        state[f"{name}.conv1.weight"] = torch.randn(made, taken, 3, 3) / (9 * taken) ** 0.5
        state[f"{name}.conv1.bias"] = 0.1 * torch.randn(made)
        if not name.startswith("to_imc") and name != "decoder.4":
            norm = {"weight": 1 + 0.1 * torch.randn(made), "bias": 0.1 * torch.randn(made)}
            norm |= {"running_mean": 0.1 * torch.randn(made), "running_var": 1 + torch.rand(made)}
            norm["num_batches_tracked"] = torch.tensor(9)
            state |= {f"{name}.bn1.bn.{part}": value for part, value in norm.items()}
    return state


def pass_histoplexer(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The published forward pass, from its weights alone: images in [0, 1] -> a quarter's size."""
    from torch.nn import functional

    def convolve(name: str, values: torch.Tensor, stride: int) -> torch.Tensor:
        padded = functional.pad(values, (1, 1, 1, 1), mode="reflect")
        weight, bias = state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"]
        made = functional.conv2d(padded, weight, bias, stride)
        if f"{name}.bn1.bn.weight" not in state:
            return functional.relu(made)
        own = [state[f"{name}.bn1.bn.{part}"] for part in ("running_mean", "running_var")]
        own += [state[f"{name}.bn1.bn.{part}"] for part in ("weight", "bias")]
        return functional.leaky_relu(functional.batch_norm(made, *own), 0.2)

    def double(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    values, passed = images, []
    for level in range(7):
        if level in {2, 4, 6}:
            side = images.shape[-1] // 2**level
            seen = functional.interpolate(images, size=(side, side), mode="bilinear")
            values = torch.cat([values, seen], 1)
        values = convolve(f"encoder.{level}", values, 2)
        passed.append(values)
    values = convolve("center_block.0", values, 2)
    values = convolve("center_block.1", double(values), 1)
    for level in range(5):
        values = convolve(f"decoder.{level}", double(torch.cat([passed[-1 - level], values], 1)), 1)
    return values


@torch.inference_mode()
def test_histoplexer_is_its_own_forward_pass(tmp_path: Path) -> None:
    state, names = draw_histoplexer(11), [f"m{n}" for n in range(11)]
    held = {"trans_ema_state_dict": state, "trans_state_dict": {}, "step": 5}
    path = save(tmp_path / "checkpoint-500000.pt", held)  # type: ignore[arg-type]
    options = Options(tmp_path / "imc", class_names=tuple(names), kind="histoplexer")
    record = convert_checkpoint(path, options, allow_pickle=True)
    idle = [f"to_imc.{n}.conv1.{part}" for n in (0, 1) for part in ("bias", "weight")]
    assert record["dropped"] == idle
    config = read_config(tmp_path / "imc")
    assert config.network == HistoplexerSettings(kind="histoplexer", out_channels=11)
    network = build_network(config.network).eval()
    network.load_state_dict(load_file(tmp_path / "imc" / "model.safetensors"))
    images = torch.rand(2, 3, 256, 256)
    made, wanted = network(images), pass_histoplexer(state, images)
    assert wanted.shape == (2, 11, 64, 64) and wanted.std() > 0.01
    filled = wanted.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(made, filled, rtol=1e-4, atol=1e-5)
    state["feature_integration.weight"] = torch.zeros(256, 512, 1, 1)
    save_file(state, tmp_path / "fm.safetensors")
    with pytest.raises(InputError, match="it takes features of another model, too"):
        convert_checkpoint(tmp_path / "fm.safetensors", Options(tmp_path / "x", kind="histoplexer"))


def pass_flash(encoder: Any, decoder: Any, images: torch.Tensor) -> torch.Tensor:
    """The published forward pass of GigaTIME-Flash over an encoder of timm under peft."""
    from torch.nn import functional

    model = encoder.base_model.model
    tokens = model.patch_embed(images)
    side, width = int(tokens.shape[1] ** 0.5), tokens.shape[2]
    known = model.pos_embed[:, 1:]
    own = int(known.shape[1] ** 0.5)
    places = known.reshape(1, own, own, width).permute(0, 3, 1, 2)
    places = functional.interpolate(places, size=(side, side), mode="bicubic")
    tokens = tokens + places.permute(0, 2, 3, 1).reshape(1, side * side, width)
    seen = []
    for number, block in enumerate(model.blocks):
        tokens = block(tokens)
        if number in {3, 5, 8, 11}:
            seen.append(tokens.permute(0, 2, 1).reshape(-1, width, side, side))
    values = decoder["decoder4"](seen[3])
    for level, tap in ((3, 2), (2, 1), (1, 0)):
        values = decoder[f"decoder{level}"](values + decoder[f"skip{level}"](seen[tap]))
    return decoder["final_conv"](values)  # type: ignore[no-any-return]


def build_flash() -> tuple[Any, Any]:
    """An encoder of timm with adapters of peft, and a decoder, as the published code has them."""
    import timm
    from peft import LoraConfig, get_peft_model
    from torch import nn

    torch.manual_seed(4)
    encoder = timm.models.vision_transformer.VisionTransformer(
        img_size=32,
        patch_size=16,
        embed_dim=128,
        depth=12,
        num_heads=2,
        num_classes=0,
        init_values=1e-5,
        mlp_ratio=2.66667 * 2,
        mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=nn.SiLU,
    )
    encoder.patch_embed.img_size = (64, 64)
    adapted = get_peft_model(
        encoder, LoraConfig(r=8, lora_alpha=16, target_modules=["qkv", "proj"])
    )
    for name, value in adapted.named_parameters():
        if "lora_B" in name or ".ls" in name:
            nn.init.normal_(value, std=0.3)
    widths, parts = [128, 64, 32, 16, 8], nn.ModuleDict()
    for level in (4, 3, 2, 1):
        taken, made = widths[4 - level], widths[5 - level]
        parts[f"decoder{level}"] = nn.Sequential(
            nn.Conv2d(taken, made, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(made, made, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        )
    for level, made in ((1, 16), (2, 32), (3, 64)):
        ups = [128, *[made] * (4 - level)]
        parts[f"skip{level}"] = nn.Sequential(
            *(nn.ConvTranspose2d(a, b, 2, 2) for a, b in itertools.pairwise(ups))
        )
    parts["final_conv"] = nn.Conv2d(8, 4, 1)
    return adapted.eval(), parts.eval()


@torch.inference_mode()
def test_gigatime_flash_is_its_own_forward_pass(tmp_path: Path) -> None:
    encoder, decoder = build_flash()
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= dict(decoder.state_dict())
    assert "encoder.base_model.model.blocks.0.attn.qkv.lora_A.default.weight" in state
    path = save(tmp_path / "model.pth", {"state_dict": state})  # type: ignore[dict-item]
    options = Options(tmp_path / "mif", class_names=("a", "b", "c", "d"), kind="gigatime-flash")
    convert_checkpoint(path, options, allow_pickle=True)
    config = read_config(tmp_path / "mif")
    network = build_network(config.network).eval()
    network.load_state_dict(load_file(tmp_path / "mif" / "model.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    wanted = pass_flash(encoder, decoder, images)
    assert wanted.shape == (2, 4, 64, 64) and wanted.std() > 0.01
    torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)
    with encoder.disable_adapter():
        assert not torch.allclose(pass_flash(encoder, decoder, images), wanted, atol=1e-3)
    half = {k: v for k, v in state.items() if not k.endswith("0.attn.qkv.lora_B.default.weight")}
    path = save(tmp_path / "half.pth", half)
    with pytest.raises(InputError, match=r"lacks .*qkv\.lora_B"):
        convert_checkpoint(path, Options(tmp_path / "y", kind="gigatime-flash"), allow_pickle=True)


def test_what_old_torch_and_ai_ffpe_leave_beside_is_dropped_and_counted(tmp_path: Path) -> None:
    settings = RESNET.model_copy(update={"attention": True})
    own = build_network(settings).state_dict()
    old = {f"model.2.{name}": torch.zeros(4) for name in ("running_mean", "running_var")} | {
        "model.2.num_batches_tracked": torch.zeros((), dtype=torch.long)
    }
    twins = {name.replace("model.4.", "SAB."): own[name] for name in own if "model.4." in name}
    path = save(tmp_path / "G.pth", {**own, **old, **twins})
    record = convert_checkpoint(path, Options(tmp_path / "ai", kind="cut"), allow_pickle=True)
    assert record["dropped"] == sorted([*old, *twins])
    twins["SAB.conv1.weight"] = twins["SAB.conv1.weight"] + 1
    path = save(tmp_path / "G.pth", {**own, **twins})
    with pytest.raises(InputError, match=r"SAB\.conv1\.weight: is not what model\.4\.\* holds"):
        convert_checkpoint(path, Options(tmp_path / "ai2", kind="cut"), allow_pickle=True)
    bare = build_network(SETTINGS["unet"][0]).state_dict()
    uncounted = {k: v for k, v in bare.items() if not k.endswith("num_batches_tracked")}
    save_file(uncounted, tmp_path / "G.safetensors")
    convert_checkpoint(tmp_path / "G.safetensors", Options(tmp_path / "p2p", kind="unet"))
    assert set(load_file(tmp_path / "p2p" / "model.safetensors")) == set(bare)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.99.weight": (2,)}, "unknown weights: .*model.99.weight"),
        ({"model.8.weight": None}, "missing weights: model.8.weight: give the generator's own"),
        ({"model.8.weight": (2, 2)}, r"other shapes: model.8.weight \[2, 2\] for \[16, 8, 3, 3\]"),
        ({"model.1.weight": None}, r"of another network \(lacks 'model.1.weight'\); it has model"),
        ({"model.1.weight": (3,)}, "is of another network"),
        ({"head": (3,)}, "is of another network"),
    ],
)
def test_weights_without_a_place_are_named(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    state = dict(build_network(RESNET).state_dict())
    for name, shape in change.items():
        state.pop(name, None)
        state |= {} if shape is None else {name: torch.zeros(shape)}
    save_file(state, tmp_path / "G.safetensors")
    with pytest.raises(InputError, match=f"--kind cut: .*{words}"):
        convert_checkpoint(tmp_path / "G.safetensors", Options(tmp_path / "mine", kind="cut"))
    assert not (tmp_path / "mine").exists()


def test_the_command_writes_a_catalog(tmp_path: Path) -> None:
    settings = UnetppSettings(kind="unetpp", widths=(4, 8), out_channels=5)
    path = save(tmp_path / "model.pth", dict(build_network(settings).state_dict()))
    words = ["models", "convert", str(path), "--kind", "unetpp", "--out"]

    def ask(*more: str) -> Any:
        return call(*words, *more)

    refused = ask(str(tmp_path / "mif"))
    assert refused.exit_code == 2 and "give --allow-pickle" in refused.output
    unnamed = ask(str(tmp_path / "mif"), "--allow-pickle")
    assert unnamed.exit_code == 2 and "--classes: channel_names: name the 5" in unnamed.output
    spaced = ask(str(tmp_path / "My Model"), "--allow-pickle")
    assert spaced.exit_code == 2 and "'My Model' is no id" in spaced.output
    idle = ask(str(tmp_path / "mif"), "--allow-pickle", "--config", str(path))
    assert idle.exit_code == 2 and "--config: has no effect on --kind unetpp" in idle.output
    names = "DAPI,CD3,CD8,PD-L1,CK"
    done = ask(str(tmp_path / "mif"), "--allow-pickle", "--classes", names, "--mpp", "0.5")
    assert done.exit_code == 0, done.output
    assert "generator: {model: mif}" in done.output
    entry = load_catalogs([tmp_path / "mif"]).find_model("mif")
    assert (entry.family, entry.required, entry.mpp) == ("translator", ("source",), 0.5)
    assert entry.licence.id == "unanswered" and Path(entry.source) == tmp_path / "mif"
    assert read_config(tmp_path / "mif").channel_names == tuple(names.split(","))
    header = (tmp_path / "mif" / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(header)["license"] == "other"
    assert json.loads((tmp_path / "mif" / "conversion.json").read_text())["format"] == "unetpp"
