"""`PixelFlowPipeline`: class-conditioned flow matching on pixels, the pipeline of `nano-he`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class PixelFlowPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples small images straight in pixel space, without an autoencoder.

    The image is folded by `pixel_unshuffle` (H, W, 3) -> (H/f, W/f, 3 f^2) and a `UNet2DModel`
    predicts the velocity `noise - image` of the straight path `x = (1 - sigma) image + sigma noise`
    (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003). Any flow scheduler
    of diffusers samples it; the last class embedding is the null class of classifier-free guidance
    (Ho & Salimans 2022, arXiv 2207.12598).

    Args:
        unet: velocity network; class embedding `len(class_names)` is the null class.
        scheduler: a scheduler that steps flow velocities and has `sigmas`.
        class_names: the classes in the order of their embeddings, comma-separated (diffusers takes
            a list in `model_index.json` for a component and loses it).
        fold: pixel-unshuffle factor f.
        mpp: µm per pixel of the training images.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Any,
        class_names: str = "",
        fold: int = 2,
        mpp: float | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(class_names=class_names, fold=fold, mpp=mpp)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their embeddings."""
        return tuple(name for name in self.config.class_names.split(",") if name)

    @property
    def image_size(self) -> int:
        """Height and width of the images, px."""
        return int(self.unet.config.sample_size) * int(self.config.fold)

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the current or last call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        image: NDArray[np.uint8] | Sequence[Image.Image] | None = None,
        strength: float = 1.0,
        num_inference_steps: int = 12,
        guidance_scale: float = 1.0,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
    ) -> Any:
        """Samples one image per class label.

        Args:
            class_labels: (N,) indices into `class_names`; `len(class_names)` is the null class.
            image: (N, H, W, 3) uint8 RGB or N RGB images to vary, or None to start from noise.
            strength: share of the path that is run again for `image`, in (0, 1].
            num_inference_steps: scheduler steps of the whole path.
            guidance_scale: classifier-free guidance; 1 switches it off and halves the work.
            generator: one for each image, or one for all.
            output_type: `pil`, `np` ((N, H, W, 3) float in [0, 1]) or `pt` ((N, 3, H, W)). Values
                that were not finite are NaN, infinities too.
            return_dict: return an `ImagePipelineOutput` instead of a tuple.
            callback_on_step_end: `f(pipe, step, timestep, {})`; may set `pipe._guidance_scale`.

        Raises:
            ValueError: labels or strength out of range.
        """
        null = len(self.class_names)
        if not all(0 <= label <= null for label in class_labels):
            raise ValueError(f"class labels must be 0..{null}, got {list(class_labels)}")
        if not 0.0 < strength <= 1.0:
            raise ValueError(f"strength must be in (0, 1], got {strength}")
        self._guidance_scale = guidance_scale
        count = len(class_labels)
        unet, device, dtype = self.unet, self._execution_device, self.unet.dtype
        shape = (count, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        first = 0
        if image is not None:
            first = num_inference_steps - max(1, round(num_inference_steps * strength))
            first *= self.scheduler.order
        sigma = float(self.scheduler.sigmas[first])
        sample = sigma * noise
        if image is not None:
            pixels = np.stack([np.asarray(one) for one in image])
            start = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
            start = pixel_unshuffle(start.float() / 127.5 - 1.0, self.config.fold)
            sample = (1.0 - sigma) * start + sigma * noise
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(first)

        labels = torch.tensor(list(class_labels), device=device)
        timesteps = self.scheduler.timesteps[first:]
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as bar:
            for step, timestep in enumerate(timesteps):
                velocity = self._predict(sample.to(dtype), timestep, labels, null).float()
                sample = self.scheduler.step(velocity, timestep, sample).prev_sample
                if callback_on_step_end is not None:
                    callback_on_step_end(self, step, timestep, {})
                bar.update()
        unfolded = pixel_shuffle(sample, self.config.fold) / 2 + 0.5
        clamped = unfolded.clamp(0, 1).masked_fill(~unfolded.isfinite(), torch.nan)
        return self._to_output(clamped, output_type, return_dict)

    def _predict(
        self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor, null: int
    ) -> torch.Tensor:
        guidance = self._guidance_scale
        if guidance == 1.0:
            return self.unet(sample, timestep, class_labels=labels).sample  # type: ignore[no-any-return]
        both = torch.cat([torch.full_like(labels, null), labels])
        output = self.unet(torch.cat([sample, sample]), timestep, class_labels=both).sample
        free, held = output.chunk(2)
        return free + guidance * (held - free)  # type: ignore[no-any-return]

    def _to_output(self, pixels: torch.Tensor, output_type: str, return_dict: bool) -> Any:
        images: Any = pixels
        if output_type != "pt":
            images = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
