"""PixArt-alpha and PixArt-sigma: diffusion transformers with T5."""

from types import MappingProxyType

from factory.models.generators.families.pipeline import TextFamily

_CALL = {"use_resolution_binning": False, "clean_caption": False}


class PixArtAlphaFamily(TextFamily):
    """PixArt-alpha: 120 tokens of T5."""

    kind = "pixart-alpha"
    optional = frozenset({"class_name", "caption", "source"})
    pipelines = ("diffusers:PixArtAlphaPipeline",)
    guidance = "call"
    steps = 20
    inverts = True
    scale = 4.5
    token_limits = MappingProxyType({"tokenizer": None})
    lowercases = True
    call_arguments = MappingProxyType({"max_sequence_length": 120, **_CALL})


class PixArtSigmaFamily(PixArtAlphaFamily):
    """PixArt-sigma: 300 tokens of T5."""

    kind = "pixart-sigma"
    pipelines = ("diffusers:PixArtSigmaPipeline",)
    call_arguments = MappingProxyType({"max_sequence_length": 300, **_CALL})
