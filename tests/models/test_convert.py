"""`factory models convert`: CompVis naming there and back on tiny weights, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from factory.core.errors import InputError
from factory.data.records import Condition, Job, Request
from factory.data.streams import Embedding, Scale
from factory.models.convert import Options, convert_checkpoint
from factory.models.generators import build_generator
from factory.models.generators.latent import LatentPipeline
from factory.models.generators.settings import GeneratorSettings
from tests import compvis_forward
from tests.compvis import write_names
from tests.parts import make
from tests.running import call

UNET = {
    "image_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "attention_resolutions": [2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_heads": 1,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 32,
}
DECODER = {
    "double_z": False,
    "z_channels": 3,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
CONDITIONERS = {
    "class_name": ("ClassEmbedder", {"n_classes": 3, "embed_dim": 32}),
    "embedding": ("PatchEmbedder", {"patch_embed_dim": 6, "normalize_ssl": True}),
    "caption": ("FrozenCLIPEmbedder", {"max_length": 77}),
    "grid": ("EmbeddingViT2_5", {"num_layers": 2, "num_heads": 2, "p_uncond": 0.1}),
}
FIRST_STAGES = {
    "vq": {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {"embed_dim": 3, "n_embed": 16, "ddconfig": DECODER},
    },
    "kl": {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {"embed_dim": 3, "ddconfig": DECODER | {"double_z": True}},
    },
}


def write_config(path: Path, takes: str, **changes: Any) -> Path:
    name, given = CONDITIONERS[takes]
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "timesteps": 1000,
        "image_size": 8,
        "channels": 3,
        "unet_config": {"target": "ldm.UNetModel", "params": UNET},
        "first_stage_config": FIRST_STAGES["vq"],
        "cond_stage_config": {"target": f"ldm.modules.encoders.modules.{name}", "params": given},
    }
    path.write_text(yaml.safe_dump({"model": {"params": params | changes}}))
    return path


def build_parts(takes: str, stage: str = "vq") -> tuple[Any, Any, dict[str, Any], Any]:
    """UNet, first stage, weights of the conditioner, and the module of the conditioner."""
    from factory.models.generators.latent import LatentConditioner
    from factory.models.generators.latent_grid import GridConditioner

    torch.manual_seed(0)
    wide = {"block_out_channels": (32, 64), "norm_num_groups": 32, "sample_size": 16}
    unet = make(
        "UNet2DConditionModel",
        in_channels=3,
        out_channels=3,
        attention_head_dim=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        **{**wide, "sample_size": 8},
    )
    if stage == "vq":
        vae = make("VQModel", "LDM", num_vq_embeddings=16, scaling_factor=1.0, **wide)
    else:
        vae = make("AutoencoderKL", latent_channels=3, **wide)
    if takes == "caption":
        encoder = make("CLIPTextModel")
        state = encoder.state_dict()
        head = "" if any(key.startswith("text_model.") for key in state) else "text_model."
        return unet, vae, {f"transformer.{head}{k}": v for k, v in state.items()}, encoder
    if takes == "grid":
        module = GridConditioner(32, 6, 16, 24, layers=2, heads=2, scales=8, has_norm=True)
        for value in module.parameters():
            torch.nn.init.normal_(value, std=0.3)
        return unet, vae, module.state_dict(), module
    sizes = {"classes": 3} if takes == "class_name" else {"embedding_dim": 6, "normalise": True}
    module = LatentConditioner(32, **sizes)
    return unet, vae, module.state_dict(), module


def build_reference(takes: str, stage: str = "vq") -> Any:
    """The pipeline that the checkpoint was saved of."""
    from factory.models.generators.latent import LatentPipeline

    unet, vae, _, module = build_parts(takes, stage)
    for each in (unet, vae, module):
        each.eval()
    given = {"conditioner": module}
    if takes == "caption":
        given = {"text_encoder": module, "tokenizer": make("CLIPTokenizer")}
    scheduler = make("DDIMScheduler", beta_start=0.0015, beta_end=0.0195)
    takes = "embedding" if takes == "grid" else takes
    pipeline = LatentPipeline(vae=vae, unet=unet, scheduler=scheduler, takes=takes, **given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_job(takes: str, number: int = 0) -> Job:
    array = np.full((1, 6), number + 1.0, np.float32)
    array[0, number] = -2
    field = np.random.default_rng(number).standard_normal((4, 6)).astype(np.float32)
    condition = {
        "class_name": Condition(("low", "high")[number], None),
        "caption": Condition(None, ("High tumor", "Low tumor")[number]),
        "embedding": Condition(None, None, Embedding.of(array, "uni")),
        "grid": Condition(None, None, Embedding.of(field, "uni"), Scale((1.0, 4.0)[number])),
    }[takes]
    return Job(Request("s", number, condition, number), 0, 7 + number)


def convert(
    folder: Path, takes: str, suffix: str = ".safetensors", stage: str = "vq", **changes: Any
) -> Path:
    unet, vae, conditioner, _ = build_parts(takes, stage)
    state = {key: each.contiguous() for key, each in write_names(unet, vae, conditioner).items()}
    checkpoint = folder / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(state, checkpoint)
    else:
        torch.save({"state_dict": state, "epoch": 3}, checkpoint)
    encoder = folder / "clip"
    if takes == "caption":
        make("CLIPTokenizer").save_pretrained(encoder)
        make("CLIPTextModel").config.save_pretrained(encoder)
    changes = {"first_stage_config": FIRST_STAGES[stage], **changes}
    options = Options(
        folder / "out",
        write_config(folder / "config.yaml", takes, **changes),
        encoder,
        ("low", "high") if takes == "class_name" else (),
    )
    convert_checkpoint(checkpoint, options, allow_pickle=suffix != ".safetensors")
    return folder / "out"


@pytest.mark.parametrize("takes", CONDITIONERS)
def test_there_and_back_gives_the_same_images(takes: str, tmp_path: Path) -> None:
    folder = convert(tmp_path, takes)
    settings = GeneratorSettings(model=str(folder), steps=2, batch_size=2, guidance=20.0)
    generator = build_generator(settings, None, tmp_path)
    jobs = [make_job(takes, number) for number in range(2)]
    made = np.stack([each.pixels for each in generator.generate(jobs)])
    given = {
        "class_name": {"class_labels": [0, 1]},
        "caption": {"prompt": ["High tumor", "Low tumor"]},
    }.get(takes, {})
    if takes in {"embedding", "grid"}:
        arrays = np.stack([job.condition.get(Embedding).array for job in jobs])  # type: ignore[union-attr]
        arrays = arrays[:, 0] if takes == "embedding" else arrays
        given = {"embeddings": torch.from_numpy(arrays)}
        given |= {"scales": [1, 3]} if takes == "grid" else {}
    noise = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
    expected = build_reference(takes)(
        **given, num_inference_steps=2, guidance_scale=20.0, generator=noise, output_type="np"
    ).images
    assert made.shape == (2, 16, 16, 3) and made.std() > 1
    np.testing.assert_array_equal(made, (expected * 255).round().astype(np.uint8))
    alone = generator.generate([jobs[1]])[0].pixels
    np.testing.assert_array_equal(alone, made[1])
    other = Job(jobs[1].request, 0, jobs[0].seed)
    assert not np.array_equal(generator.generate([other])[0].pixels, made[0])


@pytest.mark.parametrize("stage", FIRST_STAGES)
@torch.inference_mode()
def test_parts_are_the_forward_passes_of_the_published_code(stage: str, tmp_path: Path) -> None:
    """What diffusers' converters make, against passes of the checkpoint that know no diffusers."""
    folder = convert(tmp_path, "grid", stage=stage, scale_factor=0.3)
    state = load_file(tmp_path / "model.safetensors")
    pipeline = LatentPipeline.from_pretrained(folder)
    assert type(pipeline.vae).__name__ == {"vq": "VQModel", "kl": "AutoencoderKL"}[stage]
    assert pipeline.vae.config.scaling_factor == 0.3
    latents, context = torch.randn(1, 3, 8, 8), torch.randn(1, 65, 32)
    made = pipeline.unet(latents, 321, encoder_hidden_states=context).sample
    wanted = compvis_forward.predict(state, latents, 321, context, 32)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    made, wanted = pipeline.vae.decode(latents).sample, compvis_forward.decode(state, latents)
    assert wanted.shape == (1, 3, 16, 16) and wanted.std() > 0.01
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    for side, scale in ((1, 0), (2, 1), (4, 5), (8, 3)):
        features = torch.randn(6, side, side)
        given = features.flatten(1).T[None]
        made = pipeline.conditioner(given, [scale])[0]
        wanted = compvis_forward.encode_grid(state, features, scale, 2)
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    assert not pipeline.conditioner.encode_null(2).any()
    with pytest.raises(ValueError, match="takes 1, 4, 16, 64 embeddings, got 9"):
        pipeline.conditioner(torch.randn(1, 9, 6))


@torch.inference_mode()
def test_captions_of_two_windows_are_read_as_the_published_code_reads_them(tmp_path: Path) -> None:
    """PathLDM's 154 tokens: CLIP's 77 positions twice, under one causal mask."""
    name, _ = CONDITIONERS["caption"]
    stage = {"target": f"ldm.modules.encoders.modules.{name}", "params": {"max_length": 154}}
    folder = convert(tmp_path, "caption", cond_stage_config=stage)
    state = load_file(tmp_path / "model.safetensors")
    pipeline = LatentPipeline.from_pretrained(folder)
    config = pipeline.text_encoder.config
    assert pipeline.tokenizer.model_max_length == 154
    long = "High tumor; low TIL; " + "nests of pleomorphic cells " * 4
    made = pipeline._encode([long, "a"])
    assert made.shape == (2, 154, 32)
    filled = []
    for row, text in enumerate((long, "a")):
        read = pipeline.tokenizer(text, padding="max_length", truncation=True, max_length=154)
        ids, kept = torch.tensor(read.input_ids), torch.tensor(read.attention_mask).bool()
        filled.append(int(kept.sum()))
        heads = config.num_attention_heads
        wanted = compvis_forward.encode_text(state, ids, kept, 77, heads)
        torch.testing.assert_close(made[row], wanted, rtol=1e-4, atol=1e-5)
    assert 77 < filled[0] < 154 and filled[1] < 77
    settings = GeneratorSettings(model=str(folder), steps=2)
    capabilities = build_generator(settings, None, tmp_path).capabilities
    assert capabilities.token_limits == {"tokenizer": 154}


def test_a_kl_first_stage_gives_the_same_images(tmp_path: Path) -> None:
    folder = convert(tmp_path, "class_name", stage="kl")
    settings = GeneratorSettings(model=str(folder), steps=2, batch_size=2, guidance=20.0)
    jobs = [make_job("class_name", number) for number in range(2)]
    generator = build_generator(settings, None, tmp_path)
    made = np.stack([each.pixels for each in generator.generate(jobs)])
    reference = build_reference("class_name", "kl")
    reference.vae.register_to_config(scaling_factor=1.0)
    noise = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
    expected = reference(
        class_labels=[0, 1],
        num_inference_steps=2,
        guidance_scale=20.0,
        generator=noise,
        output_type="np",
    ).images
    np.testing.assert_array_equal(made, (expected * 255).round().astype(np.uint8))


def test_grids_and_scales_reach_the_image_and_wrong_ones_are_told(tmp_path: Path) -> None:
    folder = convert(tmp_path, "grid", stage="kl")  # no codes, between which a change would drown
    settings = GeneratorSettings(model=str(folder), steps=2, batch_size=2, guidance=50.0)
    generator = build_generator(settings, None, tmp_path)
    assert {"embedding"} == generator.capabilities.required
    assert "scale" in generator.capabilities.optional

    def ask(tokens: int, mpp: float | None) -> Job:
        array = np.random.default_rng(1).standard_normal((tokens, 6)).astype(np.float32)
        streams = [Embedding.of(array, "uni"), *([] if mpp is None else [Scale(mpp)])]
        return Job(Request("s", 0, Condition(None, None, *streams), 0), 0, 3)

    def make(tokens: int, mpp: float | None) -> bytes:
        return generator.generate([ask(tokens, mpp)])[0].pixels.tobytes()

    assert make(4, None) == make(4, 1.0) != make(4, 2.0)  # two by two crops of 0.5 µm
    one, field = ask(1, None), ask(4, None)
    both = [each.pixels.tobytes() for each in generator.generate([one, field])]
    assert both == [make(1, None), make(4, None)]
    with pytest.raises(InputError, match=r"scale: the model has 0\.5, 1, 2, .*64 .*got 0\.7"):
        make(4, 0.7)
    with pytest.raises(InputError, match="takes 1, 4, 16, 64 tokens an image, got 9"):
        make(9, None)


def test_the_command_reads_pickles_by_consent_and_a_run_samples(tmp_path: Path) -> None:
    folder = convert(tmp_path, "class_name", ".ckpt")
    record = json.loads((folder / "conversion.json").read_text())
    assert (record["takes"], record["width"], record["format"]) == ("class_name", 16, "compvis")
    words = ["models", "convert", str(tmp_path / "model.ckpt"), "--classes", "low,high"]
    words += ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "second")]
    refused = call(*words)
    assert refused.exit_code == 2 and "give --allow-pickle" in refused.output
    done = call(*words, "--allow-pickle")
    assert done.exit_code == 0, done.output
    assert "takes class_name, 16x16 px" in done.output
    again = call(*words, "--allow-pickle")
    assert again.exit_code == 2 and "not empty" in again.output
    recipe = tmp_path / "r.yaml"
    generator = {"model": "second", "steps": 1, "batch_size": 2}
    conditions = [{"kind": "class", "per_class": {"low": 1, "high": 1}}]
    recipe.write_text(
        yaml.safe_dump({"name": "x", "generator": generator, "conditions": conditions})
    )
    out = call("run", str(recipe), "--out", str(tmp_path / "run"))
    assert out.exit_code == 0, out.output


def test_what_has_no_counterpart_is_refused(tmp_path: Path) -> None:
    stage = {"target": "ldm.modules.encoders.modules.BERTEmbedder"}
    with pytest.raises(InputError, match="'BERTEmbedder' has no adapter"):
        convert(tmp_path, "embedding", cond_stage_config=stage)
    with pytest.raises(InputError, match="does not fit the checkpoint"):
        convert(tmp_path, "embedding", unet_config={"params": UNET | {"num_res_blocks": 2}})
    with pytest.raises(InputError, match="lacks "):
        convert(tmp_path, "embedding", unet_config={})
    with pytest.raises(InputError, match=r"does not fit the checkpoint .*beta_schedule"):
        convert(tmp_path, "embedding", beta_schedule="cosine")
    options = Options(tmp_path / "o", tmp_path / "config.yaml", None, ("a",))
    with pytest.raises(InputError, match=r"nope\.ckpt: no such file"):
        convert_checkpoint(tmp_path / "nope.ckpt", options)
    (tmp_path / "bad.ckpt").write_bytes(b"no pickle")
    with pytest.raises(InputError, match="damaged or holds more than tensors"):
        convert_checkpoint(tmp_path / "bad.ckpt", options, allow_pickle=True)
    with pytest.raises(InputError, match="no kind 'comvis': did you mean 'compvis'"):
        convert_checkpoint(tmp_path / "bad.ckpt", Options(tmp_path / "o", kind="comvis"))


@pytest.mark.parametrize(
    "held", [b"hello world", b"", b"c", b"PK\x03\x04aaaa", b"\x80\x04\x95garbage"]
)
def test_a_file_that_is_no_checkpoint_is_refused_in_words(held: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(held)
    with pytest.raises(InputError, match=r"model\.ckpt: not read, as it is damaged"):
        convert_checkpoint(path, Options(tmp_path / "out"), allow_pickle=True)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"\x80\xff\x00", "no configuration of latent-diffusion"),
        (b"model: []", "no configuration of latent-diffusion"),
        (b"model: {params: null}", "model.params: None: must be a mapping"),
        (b"model: {params: [1]}", "must be a mapping with unet_config"),
    ],
)
def test_a_configuration_of_something_else_is_refused_in_words(
    held: bytes, words: str, tmp_path: Path
) -> None:
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = tmp_path / "config.yaml"
    config.write_bytes(held)
    with pytest.raises(InputError, match=words):
        convert_checkpoint(tmp_path / "model.safetensors", Options(tmp_path / "out", config))
