"""The family `translator`: the contract of generators on tiny random networks, one of each kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

import factory
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, OutOfMemoryError, RecipeError
from factory.core.images import encode_image
from factory.data.channels import compose_rgb
from factory.data.records import Condition, Job, Request
from factory.data.streams import Source
from factory.data.streams.source import KeptImage
from factory.models.generators import build_generator
from factory.models.generators.families import FAMILIES
from factory.models.generators.settings import GeneratorSettings, Guidance
from factory.models.translators import TranslatorConfig, build_network, read_config
from factory.models.translators.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    HistoplexerSettings,
    ResnetSettings,
    UnetppSettings,
    UnetSettings,
    VitSettings,
)
from factory.models.translators.folder import About, save_translator
from tests.running import call

SIZE = 32
RESNET = {"kind": "resnet", "channels": 8, "blocks": 2}
SIGNED = {"width": SIZE, "height": SIZE, "mpp": 0.5}
LOGITS = {**SIGNED, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "output": "logits"}
UNIT = {**SIGNED, "mean": (0.0,) * 3, "std": (1.0,) * 3, "output": "unit"}
CONFIGS: dict[str, TranslatorConfig] = {
    "cut": TranslatorConfig(network=ResnetSettings(**RESNET), **SIGNED),
    "cyclegan": TranslatorConfig(
        network=ResnetSettings(**RESNET, antialias_down=False, antialias_up=False), **SIGNED
    ),
    "ai-ffpe": TranslatorConfig(network=ResnetSettings(**RESNET, attention=True), **SIGNED),
    "unet": TranslatorConfig(network=UnetSettings(kind="unet", channels=4, downs=5), **SIGNED),
    "unetpp": TranslatorConfig(network=UnetppSettings(kind="unetpp", widths=(4, 6, 8)), **LOGITS),
    "histoplexer": TranslatorConfig(
        network=HistoplexerSettings(kind="histoplexer", channels=8, depth=3), **UNIT
    ),
    "gigatime-flash": TranslatorConfig(
        network=VitSettings(kind="vit", width=64, grid=3, hidden=128), **LOGITS
    ),
}
NETWORKS = tuple(CONFIGS)
every_network = pytest.mark.parametrize("name", NETWORKS)


def draw(number: int, side: int = 64) -> NDArray[np.uint8]:
    """A pink and purple pattern, another one for each number."""
    rows, columns = np.mgrid[0:side, 0:side]
    wave = 0.5 + 0.5 * np.sin((rows + 5 * number) / 4.0) * np.cos(columns / 6.0)
    pixels = np.array([220, 150, 200]) * wave[..., None] + 40 * (1 - wave[..., None])
    return pixels.clip(0, 255).astype(np.uint8)


def make_source(number: int) -> Source:
    data = encode_image(draw(number), "png")
    return Source(KeptImage(data), f"{number:064x}")


def save(folder: Path, config: TranslatorConfig, seed: int = 0) -> Path:
    """Saves a network whose random weights give images that vary."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config.network)
        for value in network.parameters():
            if value.ndim == 4:
                torch.nn.init.normal_(value, std=1.5 / value[0].numel() ** 0.5)
    about = About(folder.name, "tiny", "a test", ("random",))
    save_translator(network.state_dict(), config, about, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("translators")
    return {name: save(root / name, config) for name, config in CONFIGS.items()}


def build(folder: Path, **changes: Any) -> Any:
    entry = load_catalogs([folder]).find_model(folder.name)
    settings = GeneratorSettings(model=folder.name, **{"batch_size": 4, **changes})
    return build_generator(settings, entry, Path())


def make_job(number: int = 0, seed: int = 7, name: str | None = None) -> Job:
    request = Request("series", number, Condition(name, None, make_source(number)), number)
    return Job(request, 0, seed)


def stack(samples: Any) -> Any:
    return np.stack([sample.pixels for sample in samples])


@every_network
def test_keeps_the_contract_of_generators(name: str, folders: dict[str, Path]) -> None:
    generator = build(folders[name])
    jobs = [make_job(number) for number in range(4)]
    samples = generator.generate(jobs)
    made = stack(samples)
    assert made.shape == (4, SIZE, SIZE, 3) and made.dtype == np.uint8
    assert min(pixels.std() for pixels in made) > 1
    assert {(each.batch_size, each.nonfinite_fraction) for each in samples} == {(4, 0.0)}
    assert len({pixels.tobytes() for pixels in made}) == 4
    assert np.array_equal(made, stack(generator.generate(jobs)))
    assert np.array_equal(made, stack(build(folders[name]).generate(jobs)))
    assert np.array_equal(made, stack(generator.generate(jobs[::-1]))[::-1])
    assert np.array_equal(made[2:3], stack(generator.generate(jobs[2:3])))
    strangers = [make_job(9), jobs[0], make_job(8)]
    assert np.array_equal(made[0], generator.generate(strangers)[1].pixels)
    six = stack(generator.generate([*jobs, *jobs[:2]]))
    assert np.array_equal(six, np.concatenate([made, made[:2]]))
    assert generator.generate([]) == []


@every_network
def test_equals_the_network_called_by_hand(name: str, folders: dict[str, Path]) -> None:
    config, state = CONFIGS[name], load_file(folders[name] / "model.safetensors")
    network = build_network(config.network).eval()
    network.load_state_dict(state)
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    pixels = np.stack([make_source(number).load(SIZE, SIZE) for number in range(4)])
    entered = ((pixels.astype(np.float32) / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        made = network(torch.from_numpy(entered))
        shown = {"logits": made.sigmoid(), "unit": made.clamp(max=1), "signed": (made + 1) / 2}
    assert config.output != "signed" or made.abs().max() <= 1
    wanted = shown[config.output].permute(0, 2, 3, 1).numpy() * 255
    found = stack(build(folders[name]).generate([make_job(number) for number in range(4)]))
    assert np.abs(wanted - found).max() <= 0.51


def test_the_seed_changes_nothing_and_a_class_is_a_label(folders: dict[str, Path]) -> None:
    generator = build(folders["cut"])
    first, again, named = generator.generate(
        [make_job(seed=1), make_job(seed=2), make_job(name="a")]
    )
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.pixels, named.pixels)
    assert generator._family.is_seeded is False


def test_capabilities_and_description_are_plain(folders: dict[str, Path]) -> None:
    generator = build(folders["unetpp"])
    capabilities = generator.capabilities
    assert (capabilities.width, capabilities.height, capabilities.mpp) == (SIZE, SIZE, 0.5)
    assert capabilities.required == {"source"} and capabilities.optional == {"class_name"}
    described = generator.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["pipeline"] == "UnetPlusPlus" and described["num_inference_steps"] == 0
    assert described["arguments"]["mean"] == list(IMAGENET_MEAN)
    other = save(folders["cut"].parent / "other", CONFIGS["unetpp"], seed=1)
    assert build(other).describe()["weights_sha256"] != described["weights_sha256"]


def test_a_folder_needs_no_entry_where_the_recipe_names_the_family(
    folders: dict[str, Path],
) -> None:
    settings = GeneratorSettings(model=str(folders["cut"]), family="translator", batch_size=2)
    generator = build_generator(settings, None, Path())
    assert (generator.capabilities.width, generator.capabilities.mpp) == (SIZE, 0.5)
    by_entry = stack(build(folders["cut"], batch_size=2).generate([make_job()]))
    assert np.array_equal(by_entry, stack(generator.generate([make_job()])))


def test_other_sizes_are_made_where_the_network_can(folders: dict[str, Path]) -> None:
    made = build(folders["cut"], width=48, height=40).generate([make_job()])[0]
    assert made.pixels.shape == (40, 48, 3)
    with pytest.raises(InputError, match=r"width: 48x40 px.* halves images 5 times: .*32"):
        build(folders["unet"], width=48, height=40)
    with pytest.raises(InputError, match="its attention reads square images: take 48 twice"):
        build(folders["ai-ffpe"], width=48, height=40)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 20),
        ("guidance", Guidance(scale=2.0, end=1.0)),
        ("scheduler", "DDIM"),
        ("negative_prompt", "blurred"),
        ("prompt_template", "{class_name}"),
    ],
)
def test_what_changes_nothing_is_refused(field: str, value: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=rf"generator\.{field}: .* one pass and reads none"):
        build(folders["cut"], **{field: value})


def test_conditions_that_it_cannot_read_are_refused(folders: dict[str, Path]) -> None:
    generator = build(folders["cut"])
    for condition, words in (
        (Condition("TUM"), "source is missing: it takes class_name, source"),
        (Condition(None, "mucin", make_source(0)), "caption is not supported"),
    ):
        with pytest.raises(InputError, match=words):
            generator.generate([Job(Request("series", 0, condition, 0), 0, 1)])


MIF = ("DAPI", "CD3", "CD8", "CK")


@pytest.fixture(scope="module")
def mif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translator to four channels, as GigaTIME is one to 23."""
    network = UnetppSettings(kind="unetpp", widths=(4, 8), out_channels=len(MIF))
    config = TranslatorConfig(network=network, channel_names=MIF, **LOGITS)
    return save(tmp_path_factory.mktemp("channels") / "mif", config)


def test_named_channels_stand_beside_their_composite(mif: Path) -> None:
    generator = build(mif, batch_size=2)
    jobs = [make_job(number) for number in range(3)]
    samples = generator.generate(jobs)
    declared = generator.capabilities.channels
    assert [(each.name, each.unit) for each in declared.named] == [(n, "probability") for n in MIF]
    network = build_network(read_config(mif).network).eval()
    network.load_state_dict(load_file(mif / "model.safetensors"))
    pixels = (make_source(2).load(SIZE, SIZE) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    entered = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
    with torch.inference_mode():
        wanted = network(entered).sigmoid()[0].numpy()
    assert np.allclose(samples[2].channels, wanted, atol=1e-5)
    assert samples[2].channels.dtype == np.float32
    for sample in samples:
        assert np.array_equal(sample.pixels, compose_rgb(sample.channels, declared))
    alone = build(mif, batch_size=2).generate(jobs[1:2])[0]
    assert np.array_equal(alone.channels, samples[1].channels)
    described = generator.describe()
    assert [each["name"] for each in described["channels"]["named"]] == list(MIF)
    settings = GeneratorSettings(model=str(mif), family="translator", batch_size=2)
    bare = build_generator(settings, None, Path()).generate(jobs[:1])[0]
    assert np.array_equal(bare.channels, samples[0].channels)


def test_channels_have_the_type_and_names_of_the_entry(mif: Path) -> None:
    entry = load_catalogs([mif]).find_model("mif")
    whole = build(mif).generate([make_job()])[0].channels

    def ask(**changes: Any) -> Any:
        channels = entry.channels.model_copy(update=changes)
        changed = entry.model_copy(update={"channels": channels})
        return build_generator(GeneratorSettings(model="mif", batch_size=4), changed, Path())

    small = ask(dtype="uint8").generate([make_job()])[0].channels
    assert small.dtype == np.uint8 and np.array_equal(small, np.rint(whole * 255))
    with pytest.raises(InputError, match="makes DAPI, CD3, CD8, CK, its catalog entry declares"):
        ask(named=entry.channels.named[:3]).generate([make_job()])
    none = entry.model_copy(update={"channels": None})
    with pytest.raises(InputError, match="declares no channels: correct channels of the entry"):
        build_generator(GeneratorSettings(model="mif"), none, Path()).generate([make_job()])
    with pytest.raises(ValueError, match="name the 4 channels"):
        TranslatorConfig(network=read_config(mif).network, **LOGITS)


def test_values_that_are_not_finite_are_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save(tmp_path / "broken", CONFIGS["cut"])
    state = load_file(folder / "model.safetensors")
    last = f"model.{max(int(name.split('.')[1]) for name in state)}.bias"
    state[last][1] = float("inf")
    state[last][2] = float("nan")
    save_file(state, folder / "model.safetensors")
    sample = build(folder).generate([make_job()])[0]
    assert sample.nonfinite_fraction == pytest.approx(1 / 3)  # tanh(inf) is 1
    assert not sample.pixels[..., 2].any()


def test_a_full_device_halves_the_batch(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build(folders["cut"])
    whole = generator.model.network.forward

    def fill(images: Any, least: int = 2) -> Any:
        if len(images) > least:
            raise RuntimeError("CUDA out of memory")
        return whole(images)

    monkeypatch.setattr(generator.model.network, "forward", fill)
    samples = generator.generate([make_job(number) for number in range(3)])
    assert [each.batch_size for each in samples] == [2, 2, 2] and generator.batch_size == 2
    monkeypatch.setattr(generator.model.network, "forward", lambda images: fill(images, 0))
    with pytest.raises(OutOfMemoryError, match="out of memory with 1 images"):
        generator.generate([make_job()])


def test_files_that_are_missing_or_of_another_network_are_told(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save(tmp_path / "mine", CONFIGS["cut"])
    config = json.loads((folder / "config.json").read_text())
    config["network"]["blocks"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"model\.safetensors: does not load: .*convert the"):
        build(folder).generate([make_job()])
    config["network"]["norm"] = "layer"
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    with pytest.raises(RecipeError, match=r"config\.json:8:3: network\.norm: must be 'instance'"):
        build(folder).generate([make_job()])
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no config\.json and model.safetensors"):
        build(folder).generate([make_job()])
    family = FAMILIES.get("translator")
    entry = load_catalogs([folder]).find_model("mine")
    told = family(GeneratorSettings(model="mine"), entry).explain_missing()
    assert told is not None and "convert its checkpoint" in told


@pytest.mark.parametrize("name", ["cut", "mif", "histoplexer", "gigatime-flash"])
def test_a_run_of_translations_is_made_again(
    name: str, folders: dict[str, Path], mif: Path, tmp_path: Path
) -> None:
    """Rows are pairs; each is exact when it is made again, its channels too."""
    folder = {**folders, "mif": mif}[name]
    for number in range(3):
        place = tmp_path / "he" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(draw(number, SIZE)).save(place)
    recipe = {
        "name": "x",
        "catalogs": [str(folder)],
        "generator": {"model": folder.name, "batch_size": 2},
        "conditions": [{"kind": "translate", "images": "he"}],
        "budget": {"attempts": 1},
        "output": {"path": "run"},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    factory.run(tmp_path / "r.yaml")
    rows = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert len(rows) == 3 and all(row["source"]["bytes"] for row in rows)
    assert (name == "mif") == all("channels" in row for row in rows)
    words = ["verify", str(tmp_path / "run"), "--regenerate", "3", "--base", str(tmp_path)]
    told = call(*words)
    assert told.exit_code == 0 and told.output.count(": exact") == 3, told.output
    checked = call("models", "check", folder.name, "--catalog", str(folder))
    assert checked.exit_code == 0 and "loads and samples here" in checked.output, checked.output
    recipe["conditions"][0]["per_image"] = 2  # type: ignore[index]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    told = call("validate", str(tmp_path / "r.yaml"))
    assert told.exit_code == 2 and "per_image: " in told.output
    assert "makes one image of each source" in told.output
