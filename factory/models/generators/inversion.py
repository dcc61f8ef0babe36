"""Translating by inversion: from a source to its noise, and back under another condition."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from factory.core.errors import InputError
from factory.data.streams.source import Translation
from factory.models.generators.injection import Injector
from factory.models.generators.straight import StraightPipeline, stack_images

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel


def invert_images(
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
        model: as loaded.
        images: of its size.
        way: how.
        calls: arguments of the pipeline's call, under which sources are inverted and then sampled.
        steps: of the whole path.

    Raises:
        InputError: layers to inject that it lacks, or a noise schedule that DDIM does not step.
    """
    pipeline = model.pipeline
    if isinstance(pipeline, StraightPipeline):
        return pipeline.translate(images, way, *calls, steps)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    count = max(1, round(steps * way.strength))
    injector = Injector(network, way.inject, count)
    back, forth = calls
    up, down = _build_schedulers(model.scheduler, count)
    handle = network.register_forward_pre_hook(_Counter(injector, count))
    before = pipeline.scheduler
    try:
        pipeline.scheduler = up
        width, height = images[0].size
        shared = {"width": width, "height": height, "num_inference_steps": steps}
        plain = {"guidance_scale": 1.0, "output_type": "latent", "latents": _encode(model, images)}
        with injector.run("hold"):
            noise = pipeline(**back, **plain, **shared).images
        pipeline.scheduler = down
        with injector.run("put"):
            made = pipeline(**forth, **shared, output_type="np", latents=noise).images
        return np.asarray(made, np.float32)
    finally:
        pipeline.scheduler = before
        handle.remove()


def name_steps(model: "LoadedModel") -> str:
    """Names what steps an inversion, as the column `scheduler` has it."""
    if isinstance(model.pipeline, StraightPipeline):
        return f"Euler on the sigmas of {type(model.scheduler).__name__}"
    return "DDIMInverseScheduler, DDIMScheduler"


class _Counter:
    """Tells an injector the step, by the calls of a network: up to `count` - 1, and down again."""

    def __init__(self, injector: Injector, count: int) -> None:
        self._injector, self._count, self._calls = injector, count, 0

    def __call__(self, _module: Any, _inputs: Any) -> None:
        call = self._calls
        self._injector.step = call if call < self._count else 2 * self._count - 1 - call
        self._calls += 1


def _build_schedulers(current: Any, count: int) -> tuple[Any, Any]:
    """Returns DDIM to noise and from it, of the first or last `count` steps of the whole path."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    if not hasattr(current, "alphas_cumprod"):
        name = type(current).__name__
        raise InputError(f"method invert: DDIM does not step the noise schedule of {name}")
    exact = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading"}
    config = {**dict(current.config), **exact, "rescale_betas_zero_snr": False}
    up = DDIMInverseScheduler.from_config(config)
    down = DDIMScheduler.from_config(config)
    _cut(up, slice(0, count))
    _cut(down, slice(-count, None))
    return up, down


def _cut(scheduler: Any, part: slice) -> None:
    """Makes a scheduler take a part of its timesteps; their distance is that of all."""
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def set_some(*arguments: Any, **options: Any) -> None:
        set_timesteps(*arguments, **options)
        scheduler.timesteps = scheduler.timesteps[part]

    scheduler.set_timesteps = set_some


@torch.no_grad()
def _encode(model: "LoadedModel", images: Sequence[Image.Image]) -> torch.Tensor:
    """Returns the latents of images: the mode of what the autoencoder says, so nothing is drawn."""
    vae = model.pipeline.vae
    own, narrow = vae.dtype, vae.dtype == torch.float16 and vae.config.get("force_upcast")
    if narrow:
        vae.to(torch.float32)
    latents = vae.encode(stack_images(images).to(vae.device, vae.dtype)).latent_dist.mode()
    vae.to(own)
    latents = latents.to(own)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    encoded: torch.Tensor = (latents - shift) * vae.config.scaling_factor
    return encoded
