"""Images as the latents that a pipeline's steps work on, by the autoencoder that it has."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image


def _encode_moments(vae: Any, pixels: "torch.Tensor") -> "torch.Tensor":
    """Returns the mode of what the autoencoder says, so nothing is drawn."""
    latents: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    return latents


def _encode_frames(vae: Any, pixels: "torch.Tensor") -> "torch.Tensor":
    """Returns those of films of one frame."""
    return _encode_moments(vae, pixels.unsqueeze(2)).squeeze(2)


def _encode_plainly(vae: Any, pixels: "torch.Tensor") -> "torch.Tensor":
    latents: torch.Tensor = vae.encode(pixels).latent
    return latents


_ENCODES: Mapping[str, Callable[[Any, "torch.Tensor"], "torch.Tensor"]] = {
    "AutoencoderKL": _encode_moments,
    "AutoencoderKLHunyuanImage": _encode_moments,
    "AutoencoderKLFlux2": _encode_moments,
    "AutoencoderKLQwenImage": _encode_frames,
    "AutoencoderKLWan": _encode_frames,
    "AutoencoderDC": _encode_plainly,
}

_OTHERS = frozenset({"HunyuanDiTPAGPipeline", "Ideogram4Pipeline", "Kandinsky5T2IPipeline"})
"""Pipelines that want latents of another form, or do not run without guidance."""


def can_encode(pipeline: str, autoencoder: str) -> bool:
    """Tells whether `encode_images` knows the latents of a pipeline, by the names of classes."""
    return autoencoder in _ENCODES and pipeline not in _OTHERS


def encode_images(pipeline: Any, images: Sequence["Image.Image"]) -> "torch.Tensor":
    """Returns the latents of images as the pipeline's network is shown them, not yet in a row.

    Args:
        pipeline: one that `can_encode` knows.
        images: all of one size, RGB.

    Returns:
        (N, C, h, w), of the autoencoder's type.
    """
    import torch

    from factory.models.generators.straight import stack_images

    vae = pipeline.vae
    own, narrow = vae.dtype, vae.dtype == torch.float16 and vae.config.get("force_upcast")
    if narrow:
        vae.to(torch.float32)
    with torch.no_grad():
        pixels = stack_images(images).to(vae.device, vae.dtype)
        latents = _ENCODES[type(vae).__name__](vae, pixels)
    vae.to(own)
    return _scale_latents(pipeline, latents.to(own))


def _scale_latents(pipeline: Any, latents: "torch.Tensor") -> "torch.Tensor":
    """Returns (N, C, h, w) latents of an autoencoder as the network is shown them.

    That is the inverse of what diffusers' pipelines do before they decode: by the statistics of a
    batch norm over patches, by mean and deviation of each channel, or by shift and scale.
    """
    vae, config = pipeline.vae, pipeline.vae.config
    if hasattr(vae, "bn"):
        patches = pipeline._patchify_latents(latents)
        mean, variance = (
            each.view(1, -1, 1, 1).to(patches) for each in (vae.bn.running_mean, vae.bn.running_var)
        )
        normed: torch.Tensor = (patches - mean) / (variance + config.batch_norm_eps).sqrt()
        return normed
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(each).view(1, -1, 1, 1) for each in (mean, std))
        latents = (latents - mean) / std
    shift, scale = config.get("shift_factor") or 0.0, config.get("scaling_factor") or 1.0
    scaled: torch.Tensor = (latents - shift) * scale
    return scaled


def pack_latents(pipeline: Any, latents: "torch.Tensor") -> "torch.Tensor":
    """Returns (N, C, h, w) latents as the call takes them: in a row of patches, for some.

    Flux 2 puts its latents in a row itself; its `_pack_latents` takes nothing beside them.
    """
    plain = getattr(pipeline, "_pack_latents_no_patch", None)
    pack = plain or getattr(pipeline, "_pack_latents", None)
    if pack is None or _packs_itself(pipeline):
        return latents
    names = inspect.signature(pack).parameters
    patch = (pipeline.transformer.config.patch_size,) if "patch_size" in names else ()
    packed: torch.Tensor = pack(latents, *latents.shape, *patch)
    return packed


def return_latents(pipeline: Any, latents: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
    """Returns latents that a call gave as it takes them, which is `like`."""
    if not _packs_itself(pipeline):
        return latents
    if latents.dim() == like.dim():  # as its autoencoder has them
        return _scale_latents(pipeline, latents)
    return latents.transpose(1, 2).reshape(like.shape)


def _packs_itself(pipeline: Any) -> bool:
    """Whether a call puts latents in a row itself."""
    pack = getattr(pipeline, "_pack_latents", None)
    return pack is not None and len(inspect.signature(pack).parameters) == 1
