"""Stable Diffusion 1 and 2, XL, and 3."""

from types import MappingProxyType

from factory.models.generators.families.pipeline import TextFamily
from factory.models.generators.prompts import CLIP_TOKENS


class StableDiffusionFamily(TextFamily):
    """Stable Diffusion 1 and 2: latents, one CLIP text encoder."""

    kind = "stable-diffusion"
    pipelines = ("diffusers:StableDiffusionPipeline",)
    image_pipelines: tuple[str, ...] = ("diffusers:StableDiffusionImg2ImgPipeline",)
    optional = frozenset({"class_name", "caption", "reference", "source"})
    inverts = True
    caches = frozenset({"pyramid_attention"})
    scale = 7.5
    token_limits = MappingProxyType({"tokenizer": CLIP_TOKENS})
    # The safety checker blackens what it takes for nudity: tissue is a frequent false alarm.
    load_arguments = MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )
    objective = "factory.train.generator.objectives.text:NoiseObjective"


class StableDiffusionXLFamily(StableDiffusionFamily):
    """Stable Diffusion XL: two CLIP text encoders."""

    kind = "stable-diffusion-xl"
    pipelines = ("diffusers:StableDiffusionXLPipeline",)
    image_pipelines = ("diffusers:StableDiffusionXLImg2ImgPipeline",)
    scale = 5.0
    token_limits = MappingProxyType({"tokenizer": CLIP_TOKENS, "tokenizer_2": CLIP_TOKENS})
    # By default a watermark is added only where its package happens to be installed.
    load_arguments = MappingProxyType({"add_watermarker": False})


class StableDiffusion3Family(StableDiffusionFamily):
    """Stable Diffusion 3: flow matching, two CLIP text encoders and T5."""

    kind = "stable-diffusion-3"
    pipelines = ("diffusers:StableDiffusion3Pipeline",)
    image_pipelines = ("diffusers:StableDiffusion3Img2ImgPipeline",)
    steps = 28
    scale = 7.0
    predicts = "flow"
    caches = TextFamily.caches
    token_limits = MappingProxyType(
        {"tokenizer": CLIP_TOKENS, "tokenizer_2": CLIP_TOKENS, "tokenizer_3": None}
    )
    load_arguments = MappingProxyType({})
    call_arguments = MappingProxyType({"max_sequence_length": 256})
    objective = "factory.train.generator.objectives.text:FlowTextObjective"
