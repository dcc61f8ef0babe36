"""Weights and adapters of others: whole, or refused before anything is written."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from factory.core.errors import InputError
from factory.core.warned import shorten_warnings
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from tests.running import call, run, write_recipe
from tests.tiny import save_lora, save_tiny

LORA = "pytorch_lora_weights.safetensors"
Q = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("stable-diffusion", "stable-diffusion-xl", "flow"):
        save_tiny(family, folder / family)
    save_lora(folder / "lora")
    return folder


def load(models, adapter, family="stable-diffusion"):
    settings = GeneratorSettings(
        model=str(models / family), adapters=[{"source": str(adapter)}], device="cpu"
    )
    return build_generator(settings, None, Path()).describe()


def write_lora(models, folder, change):
    folder.mkdir()
    save_file(change(load_file(models / "lora" / LORA)), folder / LORA)
    return folder


def to_peft(state):
    names = {"lora.down": "lora_A", "lora.up": "lora_B"}
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def to_kohya(state):
    """As kohya's scripts name them, with an alpha for each layer."""
    found = {}
    for key, value in state.items():
        layer, _, kind = key.removeprefix("unet.").removesuffix(".weight").rpartition(".lora.")
        name = f"lora_unet_{layer.replace('.', '_')}"
        found[f"{name}.lora_{kind}.weight"] = value
        found[f"{name}.alpha"] = torch.tensor(2.0)
    return found


def add_text(state, layer=f"text_encoder.{Q}"):
    pair = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    return to_peft(state) | {f"{layer}.{kind}.weight": each for kind, each in pair.items()}


@pytest.mark.parametrize("change", [dict, to_peft, to_kohya, add_text])
def test_whole_adapters_load_without_a_word(models, tmp_path, change, caplog, capfd):
    described = load(models, write_lora(models, tmp_path / "lora", change))
    assert described["adapters"][0]["weight_name"] == LORA
    assert not caplog.records
    assert "open an issue" not in capfd.readouterr().err


def is_up(key):
    return ".up." in key


SPOILT = {
    "unknown": lambda state: {f"foo.{key}": value for key, value in state.items()},
    "partly unknown": lambda state: {
        **state,
        "unet.nothing.to_q.lora.down.weight": torch.ones(2, 8),
        "unet.nothing.to_q.lora.up.weight": torch.ones(8, 2),
    },
    "other block": lambda state: {
        key.replace("mid_", "last_"): each for key, each in state.items()
    },
    "a lone down": lambda state: {k: v for k, v in state.items() if k != min(state, key=is_up)},
    "a lone up": lambda state: {k: v for k, v in state.items() if k != max(state, key=is_up)},
    "shapes": lambda state: {key: torch.ones(5, 5) for key in state},
    "deeper text encoder": lambda state: add_text(state, f"text_encoder.{Q.replace('0', '9')}"),
    "second text encoder": lambda state: add_text(state, f"text_encoder_2.{Q}"),
    "kohya of another": lambda state: (
        to_kohya(state)
        | {f"lora_te3_x.lora_{half}.weight": torch.ones(2, 2) for half in ("down", "up")}
    ),
    "no adapter": lambda state: {"weight": torch.ones(2, 2)},
}


@pytest.mark.stranger
@pytest.mark.parametrize("kind", SPOILT)
def test_adapters_that_do_not_fit_are_refused(models, tmp_path, kind):
    adapter = write_lora(models, tmp_path / "lora", SPOILT[kind])
    with pytest.raises(InputError) as caught:
        load(models, adapter)
    message = str(caught.value)
    assert message.startswith(f"{adapter / LORA}: ")
    assert ("is missing" if "lone" in kind else "trained on another model") in message
    assert len(message) < 700


HALVES = {
    "empty": (None, "an empty file, no LoRA adapter"),
    "no weights": (lambda state: {}, "a LoRA adapter without weights"),
    "cut short": (..., "no readable LoRA adapter"),
    "A only": (
        lambda state: {key: each for key, each in to_peft(state).items() if "lora_A" in key},
        "24 of its 24 low-rank weights lack the other half",
    ),
    "B only": (
        lambda state: {key: each for key, each in to_peft(state).items() if "lora_B" in key},
        "24 of its 24 low-rank weights lack the other half",
    ),
    "down only": (
        lambda state: {key: each for key, each in state.items() if ".down." in key},
        "24 of its 24 low-rank weights lack the other half",
    ),
    "down only of kohya": (
        lambda state: {key: each for key, each in to_kohya(state).items() if "lora_down" in key},
        "24 of its 24 low-rank weights lack the other half",
    ),
}


@pytest.mark.stranger
@pytest.mark.parametrize("family", ["stable-diffusion", "flow"])
@pytest.mark.parametrize("kind", HALVES)
def test_adapters_that_are_not_whole_are_refused(models, tmp_path, kind, family):
    change, said = HALVES[kind]
    adapter = write_lora(models, tmp_path / "lora", change if callable(change) else dict)
    file = adapter / LORA
    file.write_bytes({None: b"", ...: file.read_bytes()[:2000]}.get(change, file.read_bytes()))
    with pytest.raises(InputError) as caught:
        load(models, adapter, family)
    message = str(caught.value)
    assert message.startswith(f"{file}: {said}")
    assert message.endswith("the file is not whole: fetch or save it again")
    assert len(message) < 500
    assert caught.value.exit_code == 2


def test_an_adapter_of_another_base_is_refused(models, tmp_path):
    with pytest.raises(InputError, match="trained on another model"):
        load(models, models / "lora", "stable-diffusion-xl")
    with pytest.raises(InputError, match="no adapter of a flow model"):
        load(models, models / "lora", "flow")
    (tmp_path / LORA).write_bytes(b"no safetensors")
    for family in ("stable-diffusion", "flow"):
        with pytest.raises(InputError, match=LORA):
            load(models, tmp_path, family)


def test_a_flow_adapter_is_merged_whole_or_not(models, tmp_path):
    from factory.models.generators.flow_adapter import merge_adapter, write_adapter

    generator = build_generator(
        GeneratorSettings(model=str(models / "flow"), device="cpu"), None, Path()
    )
    pipeline = generator.model.pipeline
    name = next(n for n, m in pipeline.unet.named_modules() if isinstance(m, torch.nn.Conv2d))
    before = pipeline.unet.get_submodule(name).weight.clone()
    out, into = before.shape[:2]
    layers = {
        f"{name}.lora_A.weight": torch.ones(2, into, *before.shape[2:]),
        f"{name}.lora_B.weight": torch.ones(out, 2, 1, 1),
    }
    for extra in ({"else.weight": torch.ones(2)}, {"time.lora_A.weight": torch.ones(2, 2)}):
        path, layers_too = tmp_path / "a.safetensors", {**layers, **extra}
        write_adapter(pipeline, path, layers_too, ["TUM"], torch.ones(1, 32))
        with pytest.raises(InputError, match="does not fit"):
            merge_adapter(pipeline, tmp_path / "a.safetensors", 1.0)
        assert torch.equal(before, pipeline.unet.get_submodule(name).weight)


# --- weights -------------------------------------------------------------------------------------


def damage(folder, how):
    """Spoils the weights of the UNet in place; returns the file."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    if how == "cut short":
        file.write_bytes(file.read_bytes()[:2000])
    elif how == "gone":
        file.unlink()
    elif how == "other shape":
        save_file(state | {"conv_in.weight": torch.ones(3, 3)}, file)
    else:
        save_file({key: value for key, value in state.items() if key != "conv_in.weight"}, file)
    return file


@pytest.mark.stranger
@pytest.mark.parametrize("how", ["cut short", "gone", "other shape", "lacking"])
def test_weights_that_cannot_load_are_bad_input(tmp_path, how):
    save_tiny("stable-diffusion", tmp_path / "model")
    damage(tmp_path / "model", how)
    condition = {"kind": "class", "classes": ["TUM"], "per_class": 1}
    generator = {"model": "./model", "steps": 2, "width": 32, "height": 32}
    recipe = write_recipe(tmp_path, generator=generator, conditions=[condition], filters=[])
    with pytest.raises(InputError, match=r"model \./model: "):
        run(recipe, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.stranger
@pytest.mark.parametrize("lost", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_without_files_is_bad_input(tmp_path, lost):
    save_tiny("stable-diffusion", tmp_path)
    (tmp_path / "tokenizer" / lost).unlink()
    answer = call("models", "check", str(tmp_path))
    assert answer.exit_code == 2, answer.output
    assert f"tokenizer/{lost}: is missing" in answer.stderr.strip().splitlines()[-1]


@pytest.mark.stranger
def test_the_variant_of_weights(tmp_path):
    save_tiny("stable-diffusion", tmp_path)
    for file in [*tmp_path.rglob("*.safetensors")]:
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    settings = GeneratorSettings(model=str(tmp_path), device="cpu")
    with pytest.raises(InputError, match=r"set generator\.variant: fp16"):
        build_generator(settings, None, Path()).describe()
    with_variant = settings.model_copy(update={"variant": "fp16"})
    assert build_generator(with_variant, None, Path()).describe()["weights_sha256"]
    wrong = settings.model_copy(update={"variant": "bf16"})
    with pytest.raises(InputError, match="only the variant fp16"):
        build_generator(wrong, None, Path()).describe()


# --- models check, models list -------------------------------------------------------------------


@pytest.mark.stranger
@pytest.mark.parametrize(
    "name", ["fake", "nano-he", "nano-he-base", "he-multi-base", "stable-diffusion", "flow"]
)
def test_models_check_brings_its_own_condition(models, name):
    place = str(models / name) if (models / name).is_dir() else name
    result = call("models", "check", place)
    assert result.exit_code == 0, result.output
    assert "loads and samples here" in result.output


@pytest.mark.stranger
def test_models_list_marks_what_cannot_run():
    lines = call("models", "list").output.splitlines()
    told = {line.split()[0]: line for line in lines}
    assert "runs" in told["nano-he"].split()
    assert "no: on record only" in told["unipath-7b"]
    assert "no: not downloaded, runs its own code" in told["pixcell-256"]
    assert "no: gated, not downloaded" in told["flux-1-dev"]
    listed = json.loads(call("models", "list", "--json").output)
    assert {each["id"]: each["runs"] for each in listed}["given"] is False
    for name, reason in {
        "pixcell-256": "runs its own code",
        "unipath-7b": "on record only",
    }.items():
        result = call("models", "check", name)
        assert result.exit_code == 2
        assert reason in result.output


# --- what libraries say --------------------------------------------------------------------------


@pytest.mark.stranger
def test_warnings_of_libraries_are_told_once_and_short(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shorten_warnings()
        for _ in range(3):
            warnings.warn("something is odd\n" * 200, UserWarning, stacklevel=1)
    (record,) = [each for each in caplog.records if "something is odd" in each.getMessage()]
    assert len(record.getMessage()) < 220
    assert "\n" not in record.getMessage()


@pytest.mark.stranger
def test_two_adapters_load_without_a_word(models, tmp_path, caplog, capfd):
    other = write_lora(models, tmp_path / "other", dict)
    settings = GeneratorSettings(
        model=str(models / "stable-diffusion"),
        adapters=[{"source": str(each)} for each in (models / "lora", other)],
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        described = build_generator(settings, None, Path()).describe()
    assert len(described["adapters"]) == 2
    assert not [each for each in caplog.records if "peft" in each.getMessage()]
    assert "peft" not in capfd.readouterr().err


@pytest.mark.stranger
def test_cut_prompts_are_told_in_sum(models, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text(f"{'long caption of tumor ' * 20}\nshort\n")
    recipe = write_recipe(
        tmp_path,
        generator={"model": str(models / "stable-diffusion"), "steps": 2, "batch_size": 2},
        conditions=[{"kind": "caption", "captions": "captions.txt", "count": 2}],
        filters=[],
    )
    result = call("run", str(recipe), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    cut = json.loads((tmp_path / "out" / "summary.json").read_text())["cut_prompts"]
    assert cut["tokenizer"]["candidates"] == 1
    dropped = cut["tokenizer"]["tokens"]
    assert dropped > 100
    told = f"1 of 2 candidates have a prompt that tokenizer cut: {dropped:,} tokens"
    assert f"CUT {told}" in result.stderr
    assert told in (tmp_path / "out" / "README.md").read_text()
    assert len(result.stderr) < 1000
