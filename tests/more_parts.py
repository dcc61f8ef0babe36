"""Parts of tiny pipelines by their class, continued: of one pipeline or of one family each."""

import importlib
from typing import Any

import diffusers
import transformers

from tests.parts import HUNYUAN, PARTS, SMALL, WIDTH, make, only, plain_tokenizer, qwen_tokenizer

PIPELINES = "diffusers.pipelines"


def find(module: str, name: str) -> Any:
    """A class that diffusers keeps beside its pipelines."""
    return getattr(importlib.import_module(f"{PIPELINES}.{module}"), name)


# --- text and images ------------------------------------------------------------------------------


def multilingual_clip(plan: Any, component: str) -> Any:
    module = "kandinsky.text_encoder"
    config = find(module, "MCLIPConfig")(
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
        vocab_size=400,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=600,
    )
    return find(module, "MultilingualCLIP")(config)


def mistral(name: str) -> Any:
    text = {**SMALL, "model_type": "mistral"}
    vision = {
        "model_type": "pixtral",
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=1
    )
    return getattr(transformers, name)(config)


def chat_processor() -> Any:
    """A processor of texts and images with a template of conversations."""
    tokenizer = qwen_tokenizer()
    return transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(size={"longest_edge": 32}, patch_size=4),
        tokenizer,
        patch_size=4,
        image_token="<|image_pad|>",
        image_break_token="<|vision_start|>",
        image_end_token="<|vision_end|>",
        chat_template=tokenizer.chat_template,
    )


def t5_gemma(plan: Any, component: str) -> Any:
    encoder = find("prx.pipeline_prx", "T5GemmaEncoder")
    both = transformers.T5GemmaConfig(encoder=dict(SMALL), decoder=dict(SMALL))
    found = encoder(both.encoder)
    found.config = both  # saved as trained ones are
    return found


def ldm_bert(plan: Any, component: str) -> Any:
    module = "latent_diffusion.pipeline_latent_diffusion"
    config = find(module, "LDMBertConfig")(
        vocab_size=100,
        encoder_layers=2,
        encoder_ffn_dim=37,
        encoder_attention_heads=4,
        d_model=WIDTH,
        head_dim=8,
        pad_token_id=0,
    )
    return find(module, "LDMBertModel")(config)


def siglip(plan: Any, component: str) -> Any:
    return transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(
            hidden_size=WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=16,
            num_patches=256,
        )
    )


def depth_estimator(plan: Any, component: str) -> Any:
    return transformers.DPTForDepthEstimation(
        transformers.DPTConfig(
            backbone_config=None,
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=37,
            image_size=32,
            patch_size=16,
            is_hybrid=False,
            neck_hidden_sizes=[16, 16, 16, 16],
            reassemble_factors=[4, 2, 1, 0.5],
            fusion_hidden_size=16,
            backbone_out_indices=[0, 1, 2, 3],
        )
    )


# --- denoisers ------------------------------------------------------------------------------------


def plain_unet(**changes: Any) -> Any:
    """A denoiser of nothing but noise."""
    settings: dict[str, Any] = {
        "sample_size": 32,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DModel(**settings, **changes)


def plain_vq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=3,
        norm_num_groups=4,
    )


def hidream(plan: Any, component: str) -> Any:
    return diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
        force_inference_output=True,
    )


def prior(plan: Any, component: str) -> Any:
    return diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=12,
        embedding_dim=WIDTH,
        num_layers=1,
    )


def z_image_controlnet(plan: Any, component: str) -> Any:
    return diffusers.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=33 if plan.is_like("Inpaint") else 16,
        add_control_noise_refiner="control_noise_refiner",
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )


def hunyuan_controlnet(plan: Any, component: str) -> Any:
    return diffusers.HunyuanDiT2DControlNetModel(transformer_num_layers=4, **HUNYUAN)


def joy_image(name: str) -> Any:
    return make(
        name,
        in_channels=16,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=WIDTH,
        num_layers=1,
        rope_dim_list=[4, 6, 6],
    )


def fibo2_widths() -> dict[str, Any]:
    return {
        "in_channels": 1,
        "dim": 32,
        "n_layers": 7,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "cap_feat_dim": 3 * WIDTH,
        "injection_layer_ids": (1, 2, 3, 4, 5),
        "perceiver_num_layers": 1,
        "min_num_gist_tokens": 4,
        "max_num_gist_tokens": 8,
        "gist_step": 4,
        "axes_dims": (8, 4, 4),
        "axes_lens": (2048, 64, 64),
    }


PARTS |= {
    "MultilingualCLIP": multilingual_clip,
    "Mistral3ForConditionalGeneration": only(lambda: mistral("Mistral3ForConditionalGeneration")),
    "Mistral3Model": only(lambda: mistral("Mistral3Model")),
    "AutoProcessor": only(chat_processor),
    "T5GemmaEncoder": t5_gemma,
    "TokenizersBackend": only(plain_tokenizer),
    "PythonBackend": PARTS["BertTokenizer"],
    "Siglip2VisionModel": siglip,
    "Siglip2ImageProcessor": only(
        lambda: transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=4)
    ),
    "DPTForDepthEstimation": depth_estimator,
    "DPTImageProcessor": only(
        lambda: transformers.DPTImageProcessor(size={"height": 32, "width": 32})
    ),
    "StableUnCLIPImageNormalizer": only(
        lambda: find(
            "stable_diffusion.stable_unclip_image_normalizer", "StableUnCLIPImageNormalizer"
        )(embedding_dim=WIDTH)
    ),
    "SCMScheduler": make("SCMScheduler"),
    "UNet2DModel": only(lambda: plain_unet(in_channels=3, out_channels=3, num_class_embeds=3)),
    "PriorTransformer": prior,
    "HiDreamImageTransformer2DModel": hidream,
    "ZImageControlNetModel": z_image_controlnet,
    "HunyuanDiT2DControlNetModel": hunyuan_controlnet,
    "JoyImageEditTransformer3DModel": joy_image("JoyImageEditTransformer3DModel"),
    "JoyImageEditPlusTransformer3DModel": joy_image("JoyImageEditPlusTransformer3DModel"),
    "BriaFibo2Transformer2DModel": lambda plan, component: diffusers.BriaFibo2Transformer2DModel(
        **fibo2_widths()
    ),
    "BriaFiboTransformer2DModel": make(
        "BriaFiboTransformer2DModel",
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        text_encoder_dim=WIDTH,
        axes_dims_rope=[0, 4, 4],
    ),
    "CosmosTransformer3DModel": make(
        "CosmosTransformer3DModel",
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        extra_pos_embed_type="learnable",
    ),
    "ErnieImageTransformer2DModel": make(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=64,
        in_channels=4,
        out_channels=4,
        text_in_dim=WIDTH,
        rope_axes_dim=(8, 4, 4),
    ),
    "Ideogram4Transformer2DModel": make(
        "Ideogram4Transformer2DModel",
        in_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=13 * WIDTH,
        mrope_section=(4, 2, 2),
    ),
    "Kandinsky3UNet": make(
        "Kandinsky3UNet",
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=WIDTH,
    ),
    "Krea2Transformer2DModel": make(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=WIDTH,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    ),
    "OmniGenTransformer2DModel": make(
        "OmniGenTransformer2DModel",
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=1,
        pad_token_id=0,
        vocab_size=400,
        time_step_dim=4,
        rope_scaling={"long_factor": [1, 2, 3, 4], "short_factor": [1, 1, 1, 1]},
    ),
    "QwenImage21Transformer2DModel": make(
        "QwenImage21Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    ),
    "AutoencoderKLQwenImage21": make(
        "AutoencoderKLQwenImage21",
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ),
}
