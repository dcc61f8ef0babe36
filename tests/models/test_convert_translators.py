"""`factory models convert --kind`: the published names of translators' weights, there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from factory.catalog.catalog import load_catalogs
from factory.cli import main
from factory.core.errors import InputError
from factory.models.convert import Options, convert_checkpoint
from factory.models.translators import build_network, read_config
from factory.models.translators.config import ResnetSettings, UnetppSettings, UnetSettings

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
    signed = kind != "unetpp"
    assert (config.output, config.mean[0]) == (("signed", 0.5) if signed else ("logits", 0.485))


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
        return CliRunner().invoke(main, [*words, *more])

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
