"""Parts of tiny pipelines by their class: small configurations that fit together, all 32 wide."""

import functools
import string
from typing import Any

import diffusers
import torch
import transformers

from tests import tiny

WIDTH = 32
"""Features of every text encoder."""
DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"


# --- tokenizers -----------------------------------------------------------------------------------


@functools.cache
def qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel

    marks = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad")
    words = [*sorted(ByteLevel.alphabet()), *(f"<|{mark}|>" for mark in (*marks, "video_pad"))]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={word: row for row, word in enumerate(words)}, merges=[]
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [f"<|{mark}|>" for mark in (*marks, "video_pad")]}
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{m.role}}\n{% if m.content is string %}{{m.content}}"
        "{% else %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{c.text}}{% endif %}{% endfor %}"
        "{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


@functools.cache
def plain_tokenizer() -> Any:
    """One token a character, as Gemma, Llama and the like are loaded."""
    from tokenizers import Tokenizer, models, processors

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<cls>", "<sep>", "<mask>")
    words = {word: row for row, word in enumerate([*special, *string.printable])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        cls_token="<cls>",
        sep_token="<sep>",
        mask_token="<mask>",
        model_max_length=512,
    )


def bert_tokenizer() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    return transformers.BertTokenizer(
        vocab={word: row for row, word in enumerate(words)}, model_max_length=77
    )


# --- text encoders --------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 400,
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
}
_VISION = {
    "depth": 2,
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": WIDTH,
    "patch_size": 14,
}
_ROPE = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}


def language_model(name: str, config: str, **changes: Any) -> Any:
    settings = {**SMALL, **changes}
    return getattr(transformers, name)(getattr(transformers, config)(**settings))


def vision_language_model(name: str, config: str, layers: int = 2) -> Any:
    ids = qwen_tokenizer().convert_tokens_to_ids
    tokens = {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }
    text = {**SMALL, "num_hidden_layers": layers, "rope_scaling": _ROPE, "rope_theta": 1e6}
    vision = dict(_VISION)
    if config.startswith("Qwen3"):
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    settings = getattr(transformers, config)(text_config=text, vision_config=vision, **tokens)
    return getattr(transformers, name)(settings)


def processor(name: str) -> Any:
    """A processor of images and texts for a vision-language model."""
    images = transformers.Qwen2VLImageProcessor(
        patch_size=14, min_pixels=4 * 28 * 28, max_pixels=4 * 28 * 28
    )
    given = {"image_processor": images, "tokenizer": qwen_tokenizer()}
    kind = getattr(transformers, name)
    if name.startswith(("Qwen3", "Qwen2VL")):
        given["video_processor"] = (
            transformers.Qwen3VLVideoProcessor()
            if name.startswith("Qwen3")
            else transformers.Qwen2VLVideoProcessor()
        )
    return kind(**given, chat_template=qwen_tokenizer().chat_template)


def t5(plan: Any, component: str) -> Any:
    return tiny._t5(plan.find_tokenizer(component.removeprefix("text_encoder")))


def clip(projects: bool) -> Any:
    def make(plan: Any, component: str) -> Any:
        tokenizer = tiny._clip_tokenizer()
        return tiny._clip(tokenizer, projects, 248 if plan.is_like("^HiDream") else 77)

    return make


def clip_vision(plan: Any, component: str) -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=37,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
    )


def clip_images(plan: Any, component: str) -> Any:
    return transformers.CLIPImageProcessor(size=32, crop_size=32)


# --- autoencoders ---------------------------------------------------------------------------------


def kl(plan: Any, component: str = "vae") -> Any:
    """An autoencoder by 2, or by 8 where a pipeline counts on it."""
    if plan.is_like("^(Lumina|HunyuanDiT|OmniGen|HiDream|Kandinsky5|Glm)"):
        return vae_by_8(16 if plan.is_like("^(HiDream|Kandinsky5|Glm)") else 4, shift_factor=0.0609)
    if plan.is_like("^(Flux|VisualCloze|Chroma)"):
        return tiny._flow_vae(1)
    if plan.is_like("^(StableDiffusion3|Bria|CogView|PRX)"):
        return tiny._flow_vae(16 if plan.is_like("^StableDiffusion3Inpaint") else 4)
    if plan.is_like("^(Ovis|LongCat|ZImage)"):
        return tiny._flow_vae(16)
    return tiny._vae(4)


def vae_by_8(channels: int, **options: Any) -> Any:
    """An autoencoder of four levels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        **options,
    )


def qwen_vae(plan: Any, component: str) -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def flux2_vae(plan: Any, component: str) -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def wan_vae(plan: Any, component: str) -> Any:
    is_fibo = plan.is_like("Fibo")
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **({"patch_size": 2, "in_channels": 12, "out_channels": 12} if is_fibo else {}),
    )
    with torch.no_grad():  # a random autoencoder hardly sees its image
        vae.quant_conv.weight *= 5.0 if is_fibo or plan.is_like("^JoyImageEditPipe") else 20.0
        vae.post_quant_conv.weight *= 5.0 if is_fibo else 1.0
    return vae


def deep_vae(plan: Any, component: str) -> Any:
    blocks = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (
            ("block_types", ("ResBlock", "EfficientViTBlock")),
            ("block_out_channels", (8, 8)),
            ("qkv_multiscales", ((), (5,))),
            ("layers_per_block", (1, 1)),
        )
    }
    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        **blocks,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )


def vector_vae(plan: Any, component: str) -> Any:
    extra = 2 if plan.is_like("V22Controlnet") else 0  # a hint is an eighth as wide
    return diffusers.VQModel(
        block_out_channels=(*[32] * (extra + 1), 64) if plan.is_like("^Kandinsky") else (8, 16),
        down_block_types=(*["DownEncoderBlock2D"] * (extra + 1), "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * (extra + 1)),
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial" if plan.is_like("^Kandinsky") else "group",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


# --- denoisers ------------------------------------------------------------------------------------


XL: dict[str, Any] = {
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 80,
    "cross_attention_dim": 64,
}


def unet(plan: Any, component: str) -> Any:
    channels = 4
    if plan.is_like("InstructPix2Pix"):
        channels = 8
    if plan.is_like("^StableDiffusionInpaint"):
        channels = 9
    settings: dict[str, Any] = {"in_channels": channels, "out_channels": 4}
    if plan.is_like("XL"):
        settings |= XL
    if plan.is_like("^IF"):
        wide = 6 if plan.is_like("SuperResolution") else 3
        settings |= {"in_channels": wide, "out_channels": 6, "sample_size": 32}
        if plan.is_like("SuperResolution"):
            settings |= {"class_embed_type": "timestep"}
    if plan.is_like("^KandinskyV22"):
        settings |= {
            "in_channels": 9 if plan.is_like("Inpaint") else 8 if plan.is_like("Controlnet") else 4,
            "out_channels": 8,
            "addition_embed_type": "image_hint" if plan.is_like("Controlnet") else "image",
            "encoder_hid_dim": WIDTH,
            "encoder_hid_dim_type": "image_proj",
        }
    if plan.is_like("^Kandinsky(Img|In|C|P)"):
        settings |= {
            "in_channels": 9 if plan.is_like("Inpaint") else 4,
            "out_channels": 8,
            "addition_embed_type": "text_image",
            "encoder_hid_dim": WIDTH,
            "encoder_hid_dim_type": "text_image_proj",
        }
    if plan.is_like("Adapter"):
        settings |= {"down_block_types": (CROSS_DOWN, DOWN), "up_block_types": (UP, CROSS_UP)}
    if plan.is_like("^StableDiffusionUpscale"):
        settings |= {"in_channels": 7, "num_class_embeds": 1000}
    if plan.is_like("^StableDiffusionLatentUpscale"):
        settings |= {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + WIDTH}
    if plan.is_like("^StableDiffusionDepth"):
        settings["in_channels"] = 5
    if plan.is_like("LatentConsistency"):
        settings["time_cond_proj_dim"] = 32
    if plan.is_like("^StableUnCLIP"):
        settings |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64}
    built = build_unet(**settings)
    if settings.get("addition_embed_type") == "image_hint":
        carry_hints(built.add_embedding.input_hint_block)
    return built


def carry_hints(layers: Any) -> None:
    """Weights under which a hint outlives its eight convolutions.

    Under torch's own a black and a white one differ by 1e-4 behind them: by no pixel of an image.
    """
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)


def build_unet(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, UP),
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        **changes,
    }
    return diffusers.UNet2DConditionModel(**settings)


def controlnet(union: bool = False) -> Any:
    def make(plan: Any, component: str) -> Any:
        settings: dict[str, Any] = {
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "in_channels": 4,
            "down_block_types": (DOWN, CROSS_DOWN),
            "cross_attention_dim": WIDTH,
            "conditioning_embedding_out_channels": (2, 4),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        }
        if plan.is_like("XL"):
            settings |= XL
        if union:
            settings |= {"num_control_type": 6, "num_trans_channel": 8, "num_trans_head": 2}
            settings |= {"num_proj_channel": 8}
            return diffusers.ControlNetUnionModel(**settings)
        return diffusers.ControlNetModel(**settings)

    return make


def stable_diffusion_3(kind: str) -> Any:
    def make(plan: Any, component: str) -> Any:
        settings: dict[str, Any] = {
            "sample_size": 16,
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 2 if plan.is_like("PAG|ControlNet") else 1,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "caption_projection_dim": WIDTH,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": 64,
            "out_channels": 4,
            "pos_embed_max_size": 96,
        }
        if plan.is_like("^StableDiffusion3Inpaint"):
            settings |= {"in_channels": 16, "out_channels": 16}
        if plan.is_like("ControlNetInpaint") and kind.startswith("SD3Control"):
            settings["extra_conditioning_channels"] = 1
        return getattr(diffusers, kind)(**settings)

    return make


def flux(kind: str) -> Any:
    def make(plan: Any, component: str) -> Any:
        wide = {"Control": 8, "Fill": 4 + 4 + 4}
        settings: dict[str, Any] = {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": WIDTH,
            "axes_dims_rope": [4, 4, 8],
        }
        if plan.is_like("^FluxControl(Img2Img|Inpaint|)Pipeline"):
            settings |= {"in_channels": wide["Control"], "out_channels": 4}
        if plan.is_like("^FluxFill"):
            settings |= {"in_channels": 4 + 4 + 16, "out_channels": 4, "guidance_embeds": True}
        if plan.is_like("^VisualCloze"):
            settings |= {"in_channels": 4 + 4 + 16, "out_channels": 4, "guidance_embeds": True}
        return getattr(diffusers, kind)(**settings)

    return make


def pixart(plan: Any, component: str) -> Any:
    return diffusers.PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
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


def sana(kind: str) -> Any:
    def make(plan: Any, component: str) -> Any:
        settings: dict[str, Any] = {
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2 if plan.is_like("PAG|ControlNet") else 1,
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 4,
            "cross_attention_dim": 8,
            "caption_channels": WIDTH,
            "sample_size": 16,
        }
        if plan.is_like("Sprint"):
            settings |= {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True}
        return getattr(diffusers, kind)(**settings)

    return make


def qwen_image(kind: str, **changes: Any) -> Any:
    def make(plan: Any, component: str) -> Any:
        settings: dict[str, Any] = {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 3,
            "joint_attention_dim": WIDTH,
            "guidance_embeds": False,
            "axes_dims_rope": (8, 4, 4),
            **changes,
        }
        if kind == "QwenImageControlNetModel":
            settings["num_layers"] = 1
            del settings["guidance_embeds"]
            if plan.is_like("Inpaint"):
                settings["extra_condition_channels"] = 4
        return getattr(diffusers, kind)(**settings)

    return make


def make(name: str, **settings: Any) -> Any:
    """A part of one configuration."""
    return lambda plan, component: getattr(diffusers, name)(**settings)


def z_image(plan: Any, component: str) -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=WIDTH,
        siglip_feat_dim=WIDTH if plan.is_like("Omni") else None,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    return transformer


def flow_scheduler(plan: Any, component: str) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


def only(thing: Any) -> Any:
    return lambda plan, component: thing()


HUNYUAN: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "in_channels": 4,
    "cross_attention_dim": WIDTH,
    "cross_attention_dim_t5": WIDTH,
    "pooled_projection_dim": 16,
    "hidden_size": 24,
}
"""Of the denoiser and of its ControlNet."""

PARTS: dict[str, Any] = {
    # tokenizers and processors
    "CLIPTokenizer": only(tiny._clip_tokenizer),
    "T5Tokenizer": only(tiny._t5_tokenizer),
    "T5TokenizerFast": only(tiny._t5_tokenizer),
    "GemmaTokenizer": only(plain_tokenizer),
    "LlamaTokenizer": only(plain_tokenizer),
    "XLMRobertaTokenizer": only(plain_tokenizer),
    "PreTrainedTokenizerFast": only(plain_tokenizer),
    "PreTrainedTokenizer": only(plain_tokenizer),
    "ByT5Tokenizer": only(transformers.ByT5Tokenizer),
    "BertTokenizer": only(bert_tokenizer),
    "Qwen2Tokenizer": only(qwen_tokenizer),
    "Qwen2TokenizerFast": only(qwen_tokenizer),
    "AutoTokenizer": lambda plan, component: (
        plain_tokenizer() if plan.is_like("^(CogView|Ernie)") else qwen_tokenizer()
    ),
    "Qwen2VLProcessor": only(lambda: processor("Qwen2VLProcessor")),
    "Qwen3VLProcessor": only(lambda: processor("Qwen3VLProcessor")),
    "CLIPImageProcessor": clip_images,
    # text encoders
    "CLIPTextModel": clip(False),
    "CLIPTextModelWithProjection": clip(True),
    "CLIPVisionModelWithProjection": clip_vision,
    "T5EncoderModel": t5,
    "UMT5EncoderModel": lambda plan, component: transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4
        )
    ),
    "BertModel": only(
        lambda: transformers.BertModel(
            transformers.BertConfig(
                vocab_size=100,
                hidden_size=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=37,
            )
        )
    ),
    "Gemma2PreTrainedModel": only(
        lambda: language_model("Gemma2Model", "Gemma2Config", attn_implementation="eager")
    ),
    "GemmaPreTrainedModel": only(lambda: language_model("GemmaModel", "GemmaConfig")),
    "Qwen3ForCausalLM": only(lambda: language_model("Qwen3ForCausalLM", "Qwen3Config")),
    "Qwen3Model": only(lambda: language_model("Qwen3Model", "Qwen3Config")),
    "PreTrainedModel": only(lambda: language_model("Qwen3Model", "Qwen3Config")),
    "GlmModel": only(lambda: language_model("GlmModel", "GlmConfig")),
    "SmolLM3ForCausalLM": only(  # no prompt is token 128,000
        lambda: language_model("SmolLM3ForCausalLM", "SmolLM3Config", vocab_size=128_001)
    ),
    "LlamaForCausalLM": only(lambda: language_model("LlamaForCausalLM", "LlamaConfig")),
    "Qwen2_5_VLForConditionalGeneration": only(
        lambda: vision_language_model("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig")
    ),
    "Qwen3VLForConditionalGeneration": only(
        lambda: vision_language_model("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", 36)
    ),
    "Qwen3VLModel": only(lambda: vision_language_model("Qwen3VLModel", "Qwen3VLConfig", 36)),
    # schedulers
    "FlowMatchEulerDiscreteScheduler": flow_scheduler,
    "KarrasDiffusionSchedulers": only(tiny._ddim),
    "DDPMScheduler": make("DDPMScheduler"),
    "DDIMScheduler": only(tiny._ddim),
    "EulerDiscreteScheduler": make("EulerDiscreteScheduler"),
    "DPMSolverMultistepScheduler": make("DPMSolverMultistepScheduler"),
    "LCMScheduler": make("LCMScheduler", beta_schedule="scaled_linear"),
    "UnCLIPScheduler": make("UnCLIPScheduler", prediction_type="sample", num_train_timesteps=1000),
    "CogVideoXDDIMScheduler": make("CogVideoXDDIMScheduler"),
    "CMStochasticIterativeScheduler": make("CMStochasticIterativeScheduler"),
    "DDPMWuerstchenScheduler": make("DDPMWuerstchenScheduler"),
    # autoencoders
    "AutoencoderKL": kl,
    "AutoencoderKLQwenImage": qwen_vae,
    "AutoencoderKLFlux2": flux2_vae,
    "AutoencoderKLWan": wan_vae,
    "AutoencoderDC": deep_vae,
    "VQModel": vector_vae,
    # denoisers
    "UNet2DConditionModel": unet,
    "ControlNetModel": controlnet(),
    "ControlNetUnionModel": controlnet(union=True),
    "SD3Transformer2DModel": stable_diffusion_3("SD3Transformer2DModel"),
    "SD3ControlNetModel": stable_diffusion_3("SD3ControlNetModel"),
    "FluxTransformer2DModel": flux("FluxTransformer2DModel"),
    "FluxControlNetModel": flux("FluxControlNetModel"),
    "PixArtTransformer2DModel": pixart,
    "SanaTransformer2DModel": sana("SanaTransformer2DModel"),
    "SanaControlNetModel": sana("SanaControlNetModel"),
    "QwenImageTransformer2DModel": qwen_image("QwenImageTransformer2DModel"),
    "QwenImageControlNetModel": qwen_image("QwenImageControlNetModel"),
    "ZImageTransformer2DModel": z_image,
    "DiTTransformer2DModel": lambda plan, component: tiny._dit().transformer,
    "Lumina2Transformer2DModel": make(
        "Lumina2Transformer2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=WIDTH,
    ),
    "ChromaTransformer2DModel": make(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    ),
    "Flux2Transformer2DModel": make(
        "Flux2Transformer2DModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    ),
    "PRXTransformer2DModel": lambda plan, component: diffusers.PRXTransformer2DModel(
        patch_size=1,
        in_channels=3 if plan.is_like("Pixel") else 4,
        context_in_dim=WIDTH,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
        **({"bottleneck_size": 8, "resolution_embeds": True} if plan.is_like("Pixel") else {}),
    ),
    "T2IAdapter": make(
        "T2IAdapter",
        in_channels=3,
        channels=[8, 16],
        num_res_blocks=2,
        downscale_factor=2,
        adapter_type="full_adapter",
    ),
    "CogView3PlusTransformer2DModel": make(
        "CogView3PlusTransformer2DModel",
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=16,
        sample_size=16,
    ),
    "CogView4Transformer2DModel": lambda plan, component: diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=8 if plan.is_like("Control") else 4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
    ),
    "BriaTransformer2DModel": make(
        "BriaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    ),
    "HunyuanDiT2DModel": make(
        "HunyuanDiT2DModel",
        num_layers=4,
        **HUNYUAN,
        activation_fn="gelu-approximate",
    ),
    "Kandinsky5Transformer3DModel": lambda plan, component: diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=32,
        out_visual_dim=16,
        patch_size=(1, 2, 2),
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        visual_cond=plan.is_like("I2I"),
    ),
    "LongCatImageTransformer2DModel": make(
        "LongCatImageTransformer2DModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    ),
    "OvisImageTransformer2DModel": make(
        "OvisImageTransformer2DModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    ),
    "NucleusMoEImageTransformer2DModel": make(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0, 8.0],
    ),
    "LuminaNextDiT2DModel": make(
        "LuminaNextDiT2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=WIDTH,
        scaling_factor=1.0,
    ),
    "HunyuanImageTransformer2DModel": make(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    ),
    "AutoencoderKLHunyuanImage": make(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    ),
    "AutoencoderTiny": make(
        "AutoencoderTiny",
        encoder_block_out_channels=(32, 32),
        decoder_block_out_channels=(32, 32),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ),
    "DreamLiteUNetModel": make(
        "DreamLiteUNetModel",
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=(
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
            "DreamLiteCrossAttnDownBlock2D",
        ),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(32, 64),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=1,
    ),
    "AuraFlowTransformer2DModel": make(
        "AuraFlowTransformer2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=256,
    ),
}
"""Class -> what builds it from the plan of a pipeline and the component's name."""
