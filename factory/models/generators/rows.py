"""What a pipeline's call asks of one row: no list of one, and an image smaller than its own."""

from collections.abc import Mapping
from typing import Any

from factory.models.generators.calls import Call

_NOT_CONFIGURED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ChromaInpaintPipeline": {"transformer": {"guidance_embeds": False}},
}


def take_bare(call: Call, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of one row without lists of one, where the call's annotations allow it."""
    return {
        name: value[0]
        if isinstance(value, list) and len(value) == 1 and call.takes_bare(name)
        else value
        for name, value in arguments.items()
    }


def supply_config(call: Call, pipeline: Any) -> None:
    """Gives a network what its own pipeline reads of it and no such network has, in diffusers."""
    for component, values in _NOT_CONFIGURED.get(call.name, {}).items():
        network = getattr(pipeline, component)
        missing = {name: value for name, value in values.items() if name not in network.config}
        network.register_to_config(**missing)


def find_enlargement(call: Call, pipeline: Any) -> int:
    """Returns how many times as wide as the image it is given a pipeline's image is.

    Those that are told no size enlarge in their autoencoder: their latents are as wide as the image
    itself. The latent upscaler doubles the latents.
    """
    if "height" in call or not call.enlarges:
        return 1
    if "Latent" in call.name:
        return 2
    autoencoder = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    return 1 if autoencoder is None else 2 ** (len(autoencoder.config.block_out_channels) - 1)
