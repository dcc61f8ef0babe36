"""Tiny pipelines with seeded random weights, one of each family, saved to a folder offline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.parts import make
from tests.pipelines import CLASS_NAMES, build_pipeline, fill, save


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Builds the tiny pipeline of `family` and saves it to `folder`; equal seeds, equal weights."""
    return save(BUILDERS[family], folder, seed)


def build(family: str) -> Any:
    """Builds the tiny pipeline of `family` with weights as they come."""
    return BUILDERS[family]()


def save_lora(folder: Path, seed: int = 0) -> Path:
    """Saves a LoRA adapter for the tiny stable-diffusion pipeline, strong enough to be seen."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = make("UNet2DConditionModel")
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_k", "to_q", "to_v"]))
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def save_open_clip(folder: Path) -> Any:
    """Writes a tiny image-text model with random weights as open_clip stores it; returns it."""
    import json

    import open_clip
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return model


def _stable_diffusion_xl() -> Any:
    scheduler = make(
        "EulerDiscreteScheduler",
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return build_pipeline("StableDiffusionXLPipeline", scheduler=scheduler)


def _stable_diffusion_3() -> Any:
    scheduler = make("FlowMatchEulerDiscreteScheduler", shift=3.0)
    return build_pipeline("StableDiffusion3Pipeline", scheduler=scheduler)


def _flux() -> Any:
    transformer = make("FluxTransformer2DModel", guidance_embeds=True)
    scheduler = make("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    return build_pipeline("FluxPipeline", transformer=transformer, scheduler=scheduler)


def save_pixcell(
    folder: Path,
    tokens: int = 1,
    vae: Path | None = None,
    name: str = "PixCellPipeline",
    dim: int = 6,
) -> Path:
    """Saves a twin of PixCell, with its own code in `folder`; its VAE below `vae`, if given.

    Its transformer takes `tokens` embeddings of `dim` values; the null one is learned. `name` may
    be `CytoSynPipeline`, which calls the same parts otherwise.
    """
    import shutil

    from tests import cytosyn_pipeline, pixcell_pipeline

    code = pixcell_pipeline if name == "PixCellPipeline" else cytosyn_pipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = make("PixArtTransformer2DModel", caption_channels=dim).eval()
        null = pixcell_pipeline.NullEmbedding(tokens, dim).eval()
        fill(transformer)
        parts = {"transformer": transformer, "null": null, "vae": make("AutoencoderKL")}
        parts["scheduler"] = make("DDIMScheduler")
        pipeline = getattr(code, name)(**parts)
        pipeline.save_pretrained(folder, safe_serialization=True)
    shutil.copy(Path(code.__file__), folder / "pipeline.py")
    if vae is not None:
        vae.mkdir(parents=True)
        (folder / "vae").rename(vae / "vae")
    return folder


def _flow() -> Any:
    """Pixels folded by 2, three classes, captions and references."""
    from factory.models.generators.conditioner import Conditioner
    from factory.models.generators.flow import FlowPipeline

    common = _make_common()
    unet = make(
        "UNet2DModel",
        sample_size=16,
        in_channels=12,
        out_channels=12,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=None,
        class_embed_type="identity",
    )
    conditioner = Conditioner(dim=32, classes=len(CLASS_NAMES), text_dim=16, reference_dim=8)
    return FlowPipeline(unet=unet, conditioner=conditioner, fold=2, **common)


def _multi() -> Any:
    """Pixels folded by 4, two to a token, every stream."""
    from factory.models.generators.multi import MultiPipeline
    from factory.models.generators.multi_network import MultiTransformer

    common = _make_common()
    sizes = {"outer_dim": 16, "dim": 32, "depth": 2, "heads": 2, "stream_dim": 16, "text_dim": 16}
    transformer = MultiTransformer(
        sample_size=8,
        merge=2,
        classes=len(CLASS_NAMES),
        embedding_dim=480,  # of color-texture
        embedding_tokens=2,
        vector_names="HYPOXIA,APOPTOSIS,MITOSIS",
        control_labels="nucleus,gland",
        **sizes,
    )
    torch.nn.init.normal_(transformer.leave.weight, std=0.02)  # smooth enough for any scheduler
    return MultiPipeline(transformer=transformer, encoder="color-texture", **common)


def _make_common() -> dict[str, Any]:
    """A tokenizer fitted on a few words, a text model of random weights, and what else is alike."""
    from factory.models.generators.straight import TEXT_TOKENS
    from factory.train.generator.network import train_tokenizer

    tokenizer = train_tokenizer(["dense nuclei", "sparse nuclei, pale eosin", "tumor"] * 3, 300)
    text_encoder = make(
        "CLIPTextModel",
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_TOKENS,
        projection_dim=16,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return {
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "scheduler": make("FlowMatchEulerDiscreteScheduler"),
        "class_names": ",".join(CLASS_NAMES),
        "mpp": 0.5,
    }


BUILDERS: dict[str, Callable[[], Any]] = {
    "stable-diffusion": lambda: build_pipeline("StableDiffusionPipeline"),
    "stable-diffusion-xl": _stable_diffusion_xl,
    "stable-diffusion-3": _stable_diffusion_3,
    "pixart-sigma": lambda: build_pipeline("PixArtSigmaPipeline"),
    "flux": _flux,
    "dit": lambda: build_pipeline("DiTPipeline", id2label=dict(enumerate(CLASS_NAMES))),
    "flow": _flow,
    "multi": _multi,
}
"""Family -> builder of its tiny pipeline."""
