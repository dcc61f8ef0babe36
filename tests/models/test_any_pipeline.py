"""Any pipeline of diffusers, asked as its signature says: one of each kind, and all (slow)."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from factory.catalog.catalog import LicenceTerms, ModelEntry
from factory.catalog.entries import Adapter, CallArgument
from factory.core.errors import InputError
from factory.data.label_maps import encode_labels
from factory.data.records import Condition, Job, Request
from factory.data.streams import Control, Embedding
from factory.data.streams.control import KeptMask
from factory.models.generators import build_generator, weights
from factory.models.generators.base import Capabilities
from factory.models.generators.binding import bind_stream
from factory.models.generators.calls import REQUIRED, Call, find_call, find_image_twin
from factory.models.generators.families import find_family
from factory.models.generators.families.diffusers import DiffusersFamily
from factory.models.generators.outputs import lay_on_white
from factory.models.generators.rows import take_bare
from factory.models.generators.runnable import choose_test_condition
from factory.models.generators.sampling import seed_global_noise
from factory.models.generators.settings import GeneratorSettings
from tests.contract import SIZE, Contract, try_contract
from tests.pipelines import SETTINGS, list_pipelines, save_pipeline
from tests.sweep import read_record

DAILY = (
    "SanaPipeline",  # text
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionInpaintPipeline",
    "LDMSuperResolutionPipeline",  # one image a call, which comes out larger
)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("pipelines")

    def find(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else save_pipeline(name, folder)

    return find


@pytest.mark.parametrize("name", DAILY)
def test_keeps_the_contract(name: str, saved: Any, tmp_path: Path) -> None:
    assert try_contract(saved(name), tmp_path, SETTINGS.get(name, {})).fault == ""


KEPT = tuple(n for n, outcome in read_record()["pipelines"].items() if outcome.startswith("kept"))


@pytest.mark.slow("test_keeps_the_contract")
@pytest.mark.parametrize("name", [name for name in KEPT if name not in DAILY])
def test_what_was_kept_is_kept(name: str, saved: Any, tmp_path: Path) -> None:
    assert try_contract(saved(name), tmp_path, SETTINGS.get(name, {})).fault == ""


@pytest.mark.slow("test_what_is_recorded_was_tried")
def test_every_pipeline_is_recorded() -> None:
    """Anew with another version of diffusers: python -m tests.sweep."""
    record = read_record()
    if record["diffusers"] == version("diffusers"):
        assert set(record["pipelines"]) == set(list_pipelines())


def test_what_is_recorded_was_tried() -> None:
    outcomes = read_record()["pipelines"]
    assert set(DAILY) <= set(KEPT) <= set(outcomes)
    counted = [each for each in outcomes.values() if not each.startswith("outside")]
    assert len(KEPT) >= 0.95 * len(counted)
    assert all(find_call(name) is not None for name in (*DAILY, *KEPT[:2]))


def test_a_signature_says_what_is_taken() -> None:
    takes = {
        "StableDiffusionPipeline": ((), ("caption", "class_name", "reference", "source")),
        "StableDiffusionImg2ImgPipeline": (("reference",), ("caption", "class_name", "source")),
        "StableDiffusionControlNetPipeline": (("control",), ("caption", "class_name")),
        "FluxControlInpaintPipeline": (
            ("control", "reference"),
            ("caption", "class_name", "source"),
        ),
        "Flux2KleinPipeline": ((), ("caption", "class_name", "reference", "source")),
        "ConsistencyModelPipeline": ((), ("class_name",)),
        "KandinskyV22Pipeline": (("embedding",), ()),
        "KandinskyV22ControlnetPipeline": (("control", "embedding"), ()),
    }
    for name, (required, optional) in takes.items():
        family = describe(name)
        assert family.streams == (frozenset(required), frozenset(optional)), name


def test_a_call_of_one_row_is_read_off_its_annotations() -> None:
    alone = {
        "DreamLitePipeline": "prompt",
        "LDMSuperResolutionPipeline": "image",
        "BriaFibo2Pipeline": "mask",
        "StableUnCLIPPipeline": "generator",
        "StableDiffusionXLControlNetUnionPipeline": "control_image",
    }
    for name, argument in alone.items():
        call = find_call(name)
        assert call is not None and call.takes_one, name
        assert take_bare(call, {argument: ["one"]}) == {argument: "one"}
        assert take_bare(call, {argument: ["one", "two"]}) == {argument: ["one", "two"]}
    for name in ("StableDiffusionXLPipeline", "FluxFillPipeline", "FluxKontextPipeline"):
        assert not find_call(name).takes_one  # type: ignore[union-attr]
    assert take_bare(Call("Own", {"prompt": None}), {"prompt": ["one"]}) == {"prompt": ["one"]}


def test_global_noise_follows_the_seed_and_is_given_back() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (7, 7, 8):
        with seed_global_noise(seed, "cpu"):
            drawn.append(torch.randn(4).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_opacity_is_laid_on_white() -> None:
    images = np.zeros((1, 1, 3, 4), np.float32)
    images[..., 3] = (0.0, 0.5, 1.0)
    assert lay_on_white(images)[0, 0].tolist() == [[1.0] * 3, [0.5] * 3, [0.0] * 3]
    plain = np.zeros((1, 2, 2, 3), np.float32)
    assert lay_on_white(plain) is plain


def describe(name: str, **changes: Any) -> DiffusersFamily:
    family = DiffusersFamily(GeneratorSettings(model="."))
    family.index = {"_class_name": name}
    call = find_call(name)
    assert call is not None
    family.signature = call
    family._describe_signature()
    return family


def test_calls_are_read_without_an_import() -> None:
    call = find_call("QwenImagePipeline")
    assert call is not None and call.guidance == "true_cfg_scale"
    assert call.fixed == {"max_sequence_length": 512}
    assert find_call("DiTPipeline").parameters["class_labels"] is REQUIRED  # type: ignore[union-attr]
    assert find_call("SanPipeline") is None
    assert find_image_twin("SanaPipeline") is None
    assert find_image_twin("IFPipeline") == "IFImg2ImgPipeline"


def test_what_no_other_family_reads_is_read_in_general(tmp_path: Path) -> None:
    for name, kind in (("SanaPipeline", "diffusers"), ("DiTPipeline", "dit")):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        assert find_family(tmp_path).kind == kind
    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "Own"]}')
    assert find_family(tmp_path).kind == "diffusers"


def test_a_bare_folder_is_asked_by_caption_and_reference(saved: Any, tmp_path: Path) -> None:
    values = {"width": SIZE, "height": SIZE, "steps": 2, "batch_size": 2}
    settings = GeneratorSettings(model=str(saved("SanaPipeline")), **values)
    generator = build_generator(settings, None, Path())
    assert generator.capabilities.optional == {"caption", "class_name", "source"}
    contract = Contract(saved("SanaPipeline"), tmp_path)
    (sample,) = generator.generate([contract.make_job(0)])
    assert sample.pixels.shape == (SIZE, SIZE, 3) and sample.prompt == "tumor cells"
    described = generator.describe()
    assert described["pipeline"] == "SanaPipeline" and described["family"] == "diffusers"
    assert described["arguments"]["clean_caption"] is False


def test_an_image_without_strength_is_taken_whole(saved: Any, tmp_path: Path) -> None:
    contract = Contract(saved("StableDiffusionInstructPix2PixPipeline"), tmp_path)
    assert contract.family.runs_alone and contract.generator.batch_size == 1
    from tests.contract import draw_reference

    weak = Condition(None, "tumor", draw_reference(tmp_path, 0, 0.5))
    with pytest.raises(InputError, match=r"only looks at the image, got strength 0\.5"):
        contract.generator.generate([contract.make_job(0, condition=weak)])


def test_a_model_of_masks_is_checked_with_one(saved: Any, tmp_path: Path) -> None:
    entry = Contract(saved("StableDiffusionControlNetPipeline"), tmp_path).family.entry
    takes = Capabilities(frozenset({"control"}), frozenset({"caption"}), None, 32, 32, None, {})
    condition = choose_test_condition("tiny", takes, entry)
    control = condition.get(Control)
    assert control is not None and condition.caption is not None
    assert set(np.unique(control.load(32, 32))) == {0, 1}


def test_labels_are_painted_by_name_else_by_id() -> None:
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    mask = Control(KeptMask(encode_labels(labels), "{}"), ((1, "nucleus"), (2, "gland")))
    spec = CallArgument(argument="image", colors={"nucleus": (1, 2, 3)})
    (painted,) = bind_stream(spec, [mask], (2, 2), None)["image"]
    red = [230, 75, 53]  # of the second id, where no color is named
    assert np.asarray(painted).tolist() == [[[0, 0, 0], [1, 2, 3]], [red, [1, 2, 3]]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub of one model, none of which is downloaded before a file is asked for."""
    place = tmp_path / "hub"

    def fetch(source: str, name: str, revision: str | None) -> str:
        found = place / name
        if not found.is_file():
            raise InputError(f"model {source}: has no {name}")
        return str(found)

    monkeypatch.setattr(weights, "find_cached", lambda *_: None)
    monkeypatch.setattr(weights, "fetch_file", fetch)
    monkeypatch.setattr(weights, "download_snapshot", lambda *_: place)
    return place


def test_embeddings_of_an_ip_adapter_have_a_call_each(tmp_path: Path) -> None:
    """diffusers repeats them by the number of prompts, without an error: rows would mix."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    spec = {"argument": "ip_adapter_image_embeds", "shape": "pair token dim", "listed": True}
    entry = make_entry(source=str(tmp_path), call={"embedding": [spec]})
    settings = GeneratorSettings(model="far", batch_size=8)
    generator: Any = build_generator(settings, entry, Path())
    assert generator.family.runs_alone and generator.batch_size == 1
    proven = entry.model_copy(update={"one_per_call": False})  # by adoption
    assert build_generator(settings, proven, Path()).batch_size == 8


def save_ip_adapter(unet: Any, folder: Path, dim: int) -> Path:
    """Saves an IP-Adapter for a UNet: a projection of one vector, keys and values of each layer."""
    draw = torch.Generator().manual_seed(3)
    width = unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": torch.randn(4 * width, dim, generator=draw),
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    number = 1
    for name in unet.attn_processors:
        if "attn2" in name:
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for half in ("k", "v"):
                weight = torch.randn(layer.to_k.weight.shape, generator=draw)
                state[f"ip_adapter.{number}.to_{half}_ip.weight"] = weight
            number += 2
    folder.mkdir()
    save_file(state, folder / "ip-adapter.safetensors")
    return folder


def test_an_ip_adapter_is_loaded_by_its_entry_and_each_row_gets_its_own_embedding(
    saved: Any, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    place = saved("StableDiffusionPipeline")
    unet = UNet2DConditionModel.from_pretrained(place / "unet")
    folder = save_ip_adapter(unet, tmp_path / "ip", 6)
    spec = {"argument": "ip_adapter_image_embeds", "shape": "pair token dim", "listed": True}
    entry = make_entry(
        source=str(place),
        call={"embedding": [spec]},
        required=("embedding",),
        optional=("caption",),
        adapters=(Adapter(source=str(folder)),),
    )

    def build(scale: float = 1.0) -> Any:
        adapter = Adapter(source=str(folder), scale=scale)
        told = entry.model_copy(update={"adapters": (adapter,)})
        return build_generator(GeneratorSettings(model="far", batch_size=8), told, Path())

    def ask(number: int, seed: int = 7) -> Job:
        drawn = np.random.default_rng(number).standard_normal((1, 6)).astype(np.float32)
        condition = Condition(None, "nuclei", Embedding.of(drawn, "drawn"))
        return Job(Request("series", number, condition, number), 0, seed)

    generator = build()
    made = [each.pixels for each in generator.generate([ask(number) for number in range(3)])]
    assert len({each.tobytes() for each in made}) == 3  # the same seed, another embedding
    assert np.array_equal(generator.generate([ask(1)])[0].pixels, made[1])
    assert [each.pixels.tobytes() for each in build().generate([ask(0)])] == [made[0].tobytes()]
    (told,) = generator.describe()["adapters"]
    assert told["weight_name"] == "ip-adapter.safetensors" and len(told["sha256"]) == 64
    off = [each.pixels for each in build(0.0).generate([ask(0), ask(1)])]
    assert np.array_equal(off[0], off[1])  # of scale 0 it is not there
    other = save_ip_adapter(unet, tmp_path / "other", 6)
    state = load_file(other / "ip-adapter.safetensors")
    state["ip_adapter.1.to_k_ip.weight"] = torch.zeros(3, 3)
    save_file(state, other / "ip-adapter.safetensors")
    wrong = entry.model_copy(update={"adapters": (Adapter(source=str(other)),)})
    with pytest.raises(InputError, match="no IP-Adapter that fits StableDiffusionPipeline"):
        build_generator(GeneratorSettings(model="far"), wrong, Path()).generate([ask(0)])


def make_entry(**changes: Any) -> ModelEntry:
    given = {
        "id": "far",
        "source": "nobody/far",
        "family": "diffusers",
        "width": SIZE,
        "height": SIZE,
        "steps": 2,
        "guidance": 3.0,
        "licence": LicenceTerms(id="cc0-1.0", date_read="2026-11-26"),
    }
    return ModelEntry(**{**given, **changes})


def test_the_first_run_of_a_model_sends_what_every_later_one_does(
    hub: Path, tmp_path: Path
) -> None:
    save_pipeline("SanaPipeline", hub)
    entry = make_entry()
    settings = GeneratorSettings(model="far", batch_size=2)
    generator = build_generator(settings, entry, Path())
    contract = Contract(hub, tmp_path)
    later = build_generator(settings, entry.model_copy(update={"source": str(hub)}), Path())
    jobs = [contract.make_job(number) for number in range(2)]
    made, again = generator.generate(jobs), later.generate(jobs)
    assert [each.prompt for each in made] == ["tumor cells", "normal stroma"]
    for one, other in zip(made, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    assert generator.describe()["arguments"] == later.describe()["arguments"]


def test_own_code_that_is_not_here_is_read_before_it_is_asked(hub: Path) -> None:
    hub.mkdir()
    (hub / "model_index.json").write_text('{"_class_name": ["pipeline", "Own"]}')
    call = "def __call__(self, prompt, class_labels=None): ..."
    settings = GeneratorSettings(model="far", trust_remote_code=True)
    with pytest.raises(InputError, match="'Own' cannot be read, so nothing would be sent"):
        build_generator(settings, make_entry(remote_code=True), Path())
    (hub / "pipeline.py").write_text(f"class Own:\n    {call}\n")
    generator: Any = build_generator(settings, make_entry(remote_code=True), Path())
    family = generator.family
    assert family.signature.name == "Own" and family.is_indexed


@pytest.mark.parametrize(
    "name",
    [
        "WanPipeline",
        "StableAudioPipeline",
        "MarigoldDepthPipeline",
        "FluxPriorReduxPipeline",
        "QwenImageLayeredPipeline",
    ],
)
def test_what_makes_no_images_is_refused_before_it_is_loaded(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    said = f"generator.model: {name} makes no images by itself"
    with pytest.raises(InputError, match=said):
        build_generator(GeneratorSettings(model=str(tmp_path)), None, Path())
    own = json.dumps({"_class_name": ["pipeline", name]})
    (tmp_path / "model_index.json").write_text(own)  # code of its own, whatever its name
    (tmp_path / "pipeline.py").write_text(f"class {name}:\n    def __call__(self, tokens): ...\n")
    build_generator(GeneratorSettings(model=str(tmp_path)), None, Path())


def test_what_no_stream_can_ask_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "VisualClozePipeline"}')
    with pytest.raises(InputError, match=r"generator\.model: VisualClozePipeline asks for a grid"):
        build_generator(GeneratorSettings(model=str(tmp_path)), None, Path())


def test_a_class_that_is_not_sent_is_no_condition_of_its_own() -> None:
    family = describe("KandinskyV22Pipeline")
    free = Capabilities(frozenset(), frozenset({"class_name", "embedding"}), None, 32, 32, None, {})
    with pytest.raises(InputError, match="class_name would only label the image"):
        family.check_condition(Condition("tumor"), free)
    family.check_condition(Condition("tumor", None, Embedding.of(np.ones((1, 4)), "e")), free)
    assert family.write_prompts([Condition("tumor")]) == [None]
    describe("SanaPipeline").check_condition(Condition("tumor"), free)
    describe("ConsistencyModelPipeline").check_condition(Condition("tumor"), free)
