"""Flux: flow matching, distilled guidance, CLIP and T5."""

from types import MappingProxyType

from factory.models.generators.families.pipeline import TextFamily
from factory.models.generators.prompts import CLIP_TOKENS


class FluxFamily(TextFamily):
    """Flux: the guidance scale is an input of the network."""

    kind = "flux"
    pipelines = ("diffusers:FluxPipeline",)
    image_pipelines = ("diffusers:FluxImg2ImgPipeline",)
    optional = frozenset({"class_name", "caption", "reference", "source"})
    guidance = "distilled"
    null_condition = "none"
    steps = 28
    scale = 3.5
    predicts = "flow"
    inverts = True
    shifts = True
    token_limits = MappingProxyType({"tokenizer": CLIP_TOKENS, "tokenizer_2": None})
    call_arguments = MappingProxyType({"max_sequence_length": 512})
