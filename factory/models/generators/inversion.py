"""Translating by inversion: from a source to its noise, and back under another condition."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.data.streams.source import Translation
from factory.models.generators.autoencoders import encode_images, pack_latents, return_latents
from factory.models.generators.injection import Injector
from factory.models.generators.inversion_steps import build_schedulers, is_flow, tell_steps
from factory.models.generators.straight import StraightPipeline

if TYPE_CHECKING:
    from factory.models.generators.families.pipeline import PipelineFamily
    from factory.models.generators.loading import LoadedModel

_GUIDANCE = ("guidance_scale", "true_cfg_scale")


def invert_images(
    family: "PipelineFamily",
    model: "LoadedModel",
    images: Sequence[Image.Image],
    way: Translation,
    calls: tuple[dict[str, Any], dict[str, Any]],
    steps: int,
) -> NDArray[np.float32]:
    """Returns (N, H, W, 3) float32 in [0, 1] or NaN: sources, as the target's arguments have them.

    Flow models follow their ordinary differential equation to noise and back in Euler steps. Models
    that predict noise or v are inverted by DDIM (Song et al. 2021, arXiv 2010.02502, section 4.3;
    `DDIMInverseScheduler`), and sampled by DDIM. Neither way draws anything.

    Args:
        family: whose pipeline it is.
        model: as loaded.
        images: of its size.
        way: how.
        calls: arguments of the pipeline's call, under which sources are inverted and then sampled.
        steps: of the whole path.

    Raises:
        InputError: layers to inject that it lacks, or a schedule that is not stepped.
    """
    pipeline = model.pipeline
    if isinstance(pipeline, StraightPipeline):
        return pipeline.translate(images, way, *calls, steps)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    count = max(1, round(steps * way.strength))
    injector = Injector(network, way.inject, count)
    up, down = build_schedulers(model.scheduler, count)
    takes = inspect.signature(pipeline.__call__).parameters
    shared: dict[str, Any] = {"num_inference_steps": steps}
    if "height" in takes:
        shared |= dict(zip(("width", "height"), images[0].size, strict=True))
    plain = {name: 1.0 for name in _GUIDANCE if name in takes}
    back, forth = (family.adapt_call({**call, **shared}, len(images)) for call in calls)
    before = pipeline.scheduler
    try:
        pipeline.scheduler = up
        tell_steps(up, injector, range(count))
        latents = pack_latents(pipeline, encode_images(pipeline, images))
        with injector.run("hold"):
            noise = family.run_latents(pipeline, latents, {**back, **plain}, "latent")
        noise = return_latents(pipeline, noise, latents)
        pipeline.scheduler = down
        tell_steps(down, injector, reversed(range(count)))
        with injector.run("put"):
            made = family.run_latents(pipeline, noise, forth, "np")
        return np.asarray(made, np.float32)
    finally:
        pipeline.scheduler = before


def name_steps(model: "LoadedModel") -> str:
    """Names what steps an inversion, as the column `scheduler` has it."""
    if isinstance(model.pipeline, StraightPipeline) or is_flow(model.scheduler):
        return f"Euler on the sigmas of {type(model.scheduler).__name__}"
    return "DDIMInverseScheduler, DDIMScheduler"
