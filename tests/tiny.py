"""Tiny pipelines with seeded random weights, one of each family, saved to a folder offline."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CLASS_NAMES = ("ADI", "LYM", "TUM")
"""Classes of the tiny class-conditioned pipelines, in the order of their embeddings."""


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Builds the tiny pipeline of `family` and saves it to `folder`; equal seeds, equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = BUILDERS[family]()
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
                fill(component)
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


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
        unet = _build_unet()
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


def fill(module: torch.nn.Module) -> None:
    """Gives zero-initialised matrices (adaLN-Zero, LoRA-like outputs) random values.

    Fresh transformers start as the identity and would ignore every condition.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    characters = [chr(code) for code in range(33, 127)]
    pieces = [*characters, *(f"{character}</w>" for character in characters)]
    vocab = {piece: row for row, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    # vocab=, not vocab_file=: transformers 5 makes a vocabulary of two tokens of files.
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="<|endoftext|>")


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [(character, -3.0) for character in string.printable.strip()]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=77)


def _clip(tokenizer: Any, projects: bool = False, tokens: int = 77) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        max_position_embeddings=tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def _t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=max(len(tokenizer), 128),
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
        )
    )


def _vae(channels: int = 4, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        **options,
    )
    # A trained encoder is sure of its latents; a random one would drown them in its own noise.
    last = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    with torch.no_grad():
        last.weight[channels:], last.bias[channels:] = 0.0, -20.0
    return vae


def _flow_vae(channels: int) -> Any:
    return _vae(
        channels,
        shift_factor=0.0609,
        scaling_factor=1.5035,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _build_unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    arguments: dict[str, Any] = {"cross_attention_dim": 32, "attention_head_dim": 4, **options}
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **arguments,
    )


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _stable_diffusion() -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer = _clip_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_build_unet(),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = _clip_tokenizer()
    unet = _build_unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_clip(tokenizer, projects=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )


def _stable_diffusion_3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=96,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_flow_vae(4),
        text_encoder=_clip(clip_tokenizer, projects=True),
        tokenizer=clip_tokenizer,
        text_encoder_2=_clip(clip_tokenizer, projects=True),
        tokenizer_2=clip_tokenizer,
        text_encoder_3=_t5(t5_tokenizer),
        tokenizer_3=t5_tokenizer,
    )


def _pixart_sigma() -> Any:
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer = _t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=_vae(),
        transformer=transformer,
        scheduler=_ddim(),
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_flow_vae(1),
        text_encoder=_clip(clip_tokenizer),
        tokenizer=clip_tokenizer,
        text_encoder_2=_t5(t5_tokenizer),
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


def _dit() -> Any:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=len(CLASS_NAMES),
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return DiTPipeline(
        transformer=transformer,
        vae=_vae(),
        scheduler=_ddim(),
        id2label=dict(enumerate(CLASS_NAMES)),
    )


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

    from diffusers import PixArtTransformer2DModel

    from tests import cytosyn_pipeline, pixcell_pipeline

    code = pixcell_pipeline if name == "PixCellPipeline" else cytosyn_pipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=dim,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            use_additional_conditions=False,
        ).eval()
        null = pixcell_pipeline.NullEmbedding(tokens, dim).eval()
        fill(transformer)
        parts = {"transformer": transformer, "null": null, "vae": _vae(), "scheduler": _ddim()}
        pipeline = getattr(code, name)(**parts)
        pipeline.save_pretrained(folder, safe_serialization=True)
    shutil.copy(Path(code.__file__), folder / "pipeline.py")
    if vae is not None:
        vae.mkdir(parents=True)
        (folder / "vae").rename(vae / "vae")
    return folder


def _flow() -> Any:
    """Pixels folded by 2, three classes, captions and references."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel

    from factory.models.generators.conditioner import Conditioner
    from factory.models.generators.flow import FlowPipeline

    tokenizer, text_encoder = _caption_encoder()
    unet = UNet2DModel(
        sample_size=16,
        in_channels=12,
        out_channels=12,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        class_embed_type="identity",
    )
    return FlowPipeline(
        unet=unet,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        conditioner=Conditioner(dim=32, classes=len(CLASS_NAMES), text_dim=16, reference_dim=8),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        class_names=",".join(CLASS_NAMES),
        fold=2,
        mpp=0.5,
    )


def _multi() -> Any:
    """Pixels folded by 4, two to a token, every stream."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from factory.models.generators.multi import MultiPipeline
    from factory.models.generators.multi_network import MultiTransformer

    tokenizer, text_encoder = _caption_encoder()
    transformer = MultiTransformer(
        sample_size=8,
        merge=2,
        outer_dim=16,
        dim=32,
        depth=2,
        heads=2,
        stream_dim=16,
        classes=len(CLASS_NAMES),
        text_dim=16,
        embedding_dim=480,  # of color-texture
        embedding_tokens=2,
        vector_names="HYPOXIA,APOPTOSIS,MITOSIS",
        control_labels="nucleus,gland",
    )
    torch.nn.init.normal_(transformer.leave.weight, std=0.02)  # smooth enough for any scheduler
    return MultiPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        class_names=",".join(CLASS_NAMES),
        encoder="color-texture",
        mpp=0.5,
    )


def _caption_encoder() -> tuple[Any, Any]:
    """A tokenizer fitted on a few words, and a text model of random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from factory.models.generators.straight import TEXT_TOKENS
    from factory.train.generator.network import train_tokenizer

    tokenizer = train_tokenizer(["dense nuclei", "sparse nuclei, pale eosin", "tumor"] * 3, 300)
    text = CLIPTextConfig(
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
    return tokenizer, CLIPTextModel(text).eval()


BUILDERS: dict[str, Callable[[], Any]] = {
    "stable-diffusion": _stable_diffusion,
    "stable-diffusion-xl": _stable_diffusion_xl,
    "stable-diffusion-3": _stable_diffusion_3,
    "pixart-sigma": _pixart_sigma,
    "flux": _flux,
    "dit": _dit,
    "flow": _flow,
    "multi": _multi,
}
"""Family -> builder of its tiny pipeline."""
