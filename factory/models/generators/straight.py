"""`StraightPipeline`: what the pipelines of the straight path from noise to images share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from factory.data.streams.source import Translation
from factory.models.generators.guiders import GuiderSettings
from factory.models.generators.pausing import Pause

Guide = Callable[[torch.Tensor], torch.Tensor]
"""From (N, 3, H, W) images, in [-1, 1] but for overshoot, to (N,) log probabilities of what each
is to show; differentiable."""
GUIDE_LIMIT = 0.3
"""Most that a guide changes a velocity, as a share of its length: more, and images fall apart."""
TEXT_TOKENS = 64
"""Tokens of a caption that the pipelines keep, its begin and end marks included."""
Generators = Sequence[torch.Generator] | torch.Generator | None
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From (N, C, h, w) on the path and its share of noise to the velocity there."""


class StraightPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Folds or encodes pixels, walks the path `x = (1 - sigma) image + sigma noise`, and decodes.

    A subclass has a scheduler of flow velocities, a `vae` or None, `fold`, `class_names` and
    `data_std` in its configuration, and predicts the velocity.

    Attributes:
        network_name: its component that predicts, which adapters change.
        classes_name: name of the table of class embeddings, below the pipeline.
        classes_count: name of their number, in the configuration of the component.
    """

    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer", "vae"]
    network_name: ClassVar[str]
    classes_name: ClassVar[str]
    classes_count: ClassVar[str]
    _guider: GuiderSettings | None = None

    def __init__(self, scheduler: Any, text_encoder: Any, tokenizer: Any, vae: Any) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer, vae=vae
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their embeddings."""
        return tuple(name for name in self.config.class_names.split(",") if name)

    @property
    def class_width(self) -> int:
        """Numbers of a class embedding that an adapter may add."""
        raise NotImplementedError

    @property
    def class_table(self) -> torch.nn.Embedding | None:
        """The embeddings that adapters may change or add to: of the last of `class_names`."""
        part, name = self.classes_name.split(".")
        found: torch.nn.Embedding | None = getattr(getattr(self, part), name)
        return found

    def put_classes(self, names: Sequence[str], table: torch.nn.Embedding) -> None:
        """Replaces the classes of `class_table`; `names` are all classes."""
        part, name = self.classes_name.split(".")
        component = getattr(self, part)
        setattr(component, name, table)
        component.register_to_config(**{self.classes_count: table.num_embeddings})
        self.register_to_config(class_names=",".join(names))

    @property
    def pixel_factor(self) -> int:
        """Pixels a side for each place that the network sees."""
        if self.vae is not None:
            return int(2 ** (len(self.vae.config.block_out_channels) - 1))
        return int(self.config.fold)

    @property
    def image_size(self) -> int:
        """Height and width of the images that it was trained at, px."""
        return int(getattr(self, self.network_name).config.sample_size) * self.pixel_factor

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the current or last call."""
        return self._num_timesteps

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns (N, 3, H, W) in [-1, 1] into what the network sees, (N, C, H/f, W/f) float32."""
        if self.vae is None:
            return pixel_unshuffle(pixels, self.config.fold)
        shift = self.vae.config.shift_factor or 0.0
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return (latents - shift) * self.vae.config.scaling_factor  # type: ignore[no-any-return]

    def decode_pixels(self, sample: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode_pixels`: (N, 3, H, W), in [-1, 1] but for overshoot."""
        if self.vae is None:
            return pixel_shuffle(sample, self.config.fold)
        latents = sample / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return self.vae.decode(latents.to(self.vae.dtype)).sample.float()  # type: ignore[no-any-return]

    def _choose_first(self, steps: int, strength: float) -> int:
        """Sets the scheduler's timesteps; returns that at which the last share of them starts."""
        self.scheduler.set_timesteps(steps, device=self._execution_device)
        return (steps - max(1, round(steps * strength))) * int(self.scheduler.order)

    def _begin(
        self,
        shape: tuple[int, ...],
        generator: Generators,
        pixels: torch.Tensor | None,
        first: int,
        pause: Pause | None = None,
    ) -> torch.Tensor:
        """Returns where the path starts: at noise, or between it and the images to vary.

        What was paused goes on where it is.
        """
        if pause is not None and pause.begun:
            return pause.restore(self.scheduler)
        noise: torch.Tensor = randn_tensor(
            shape, generator=generator, device=self._execution_device, dtype=torch.float32
        )
        share = float(self.scheduler.sigmas[first])
        if pixels is None:
            return share * noise
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        varied: torch.Tensor = (1.0 - share) * self.encode_pixels(pixels) + share * noise
        return varied

    def _walk(
        self,
        sample: torch.Tensor,
        first: int,
        predict: Predict,
        ask: Callable[..., torch.Tensor] | None,
        callback: Callable[..., dict[str, Any]] | None,
        pause: Pause | None = None,
    ) -> torch.Tensor:
        """Returns where the scheduler's steps from `first` on lead, guided by what `ask` takes.

        A call that stops part-way gives the images foreseen at its last step, x - sigma v: what
        they are by the last prediction alone, which costs nothing more.
        """
        timesteps = self.scheduler.timesteps[first:]
        self._num_timesteps = len(timesteps)
        pause = pause or Pause()
        steps = pause.find_steps(len(timesteps))
        foreseen = sample
        if callback is not None and steps.start:  # as the step before had left it
            callback(self, steps.start - 1, timesteps[steps.start - 1], {})
        with self.progress_bar(total=len(steps)) as bar:
            for step in steps:
                timestep = timesteps[step]
                # Some schedulers round their timesteps to integers; their sigmas are exact.
                sigma = self.scheduler.sigmas[first + step].to(sample.device)
                velocity = predict(sample, sigma)
                if ask is not None:
                    velocity = velocity - ask(sample, sigma, velocity)
                if step == steps.stop - 1 and pause.until is not None:
                    foreseen = sample - sigma * velocity
                sample = self.scheduler.step(velocity, timestep, sample).prev_sample
                if callback is not None:
                    callback(self, step, timestep, {})
                bar.update()
        if pause.until is None:
            return sample
        pause.hold(self.scheduler, sample, steps.stop, len(timesteps))
        return foreseen

    def build_predict(self, count: int, guidance_scale: float, **streams: Any) -> Predict:
        """Returns what predicts the guided velocity under streams, as a call is given them."""
        raise NotImplementedError

    @torch.no_grad()
    def translate(
        self,
        image: Sequence[Image.Image],
        way: Translation,
        source: Mapping[str, Any],
        target: Mapping[str, Any],
        num_inference_steps: int,
    ) -> NDArray[np.float32]:
        """Returns images inverted under a source's streams and sampled under a target's.

        The ordinary differential equation of the flow in Euler steps: from the images up to
        `way.strength` of noise without guidance, and down the same steps again.

        Args:
            image: N RGB images of the pipeline's size.
            way: share of the path, and what is injected.
            source: arguments of a call, as far as they are streams.
            target: arguments of a call: streams, `guidance_scale` and `callback_on_step_end`.
            num_inference_steps: of the whole path.

        Returns:
            (N, H, W, 3) float32 in [0, 1]; what was not finite is NaN.

        Raises:
            InputError: a layer to inject that the network lacks.
        """
        from factory.models.generators.injection import Injector

        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        first = self._choose_first(num_inference_steps, way.strength)
        sigmas = torch.unique_consecutive(self.scheduler.sigmas[first:]).flip(0)
        sample = self.encode_pixels(stack_images(image).to(self._execution_device))
        self._num_timesteps = last = len(sigmas) - 1
        injector = Injector(getattr(self, self.network_name), way.inject, last)
        told = dict(target)
        callback, scale = told.pop("callback_on_step_end", None), told.pop("guidance_scale", 1.0)
        predict = self.build_predict(len(image), 1.0, **source)
        with injector.run("hold"):
            for step in range(last):
                injector.step = step
                sample = sample + (sigmas[step + 1] - sigmas[step]) * predict(sample, sigmas[step])
        predict = self.build_predict(len(image), scale, **told)
        with injector.run("put"):
            for step in reversed(range(last)):
                injector.step = step
                change = sigmas[step] - sigmas[step + 1]
                sample = sample + change * predict(sample, sigmas[step + 1])
                if callback is not None:
                    callback(self, last - 1 - step, sigmas[step], {})
        found: NDArray[np.float32] = self._to_output(sample, "np", return_dict=False)[0]
        return found

    def _ask(
        self,
        guide: Guide,
        scale: float,
        sample: torch.Tensor,
        sigma: torch.Tensor,
        velocity: torch.Tensor,
    ) -> torch.Tensor:
        """Returns what a guide takes off the velocity.

        A score that changes by g changes the velocity by -g sigma / (1 - sigma). The guide is asked
        about the image foreseen, x - sigma v, and its gradient there is brought to x by the
        Jacobian of the best linear guess of the image, (1 - sigma) s^2 / D (see `apply_network`).
        """
        share, std = float(sigma), float(self.config.data_std)
        spread = share**2 + (1 - share) ** 2 * std**2
        with torch.enable_grad():
            foreseen = (sample - share * velocity).detach().requires_grad_()
            chance = guide(self.decode_pixels(foreseen)).sum()
            (gradient,) = torch.autograd.grad(chance, foreseen)
        change = scale * share * std**2 / spread * gradient
        lengths = change.flatten(1).norm(dim=1) / velocity.flatten(1).norm(dim=1).clamp(min=1e-6)
        kept = GUIDE_LIMIT / lengths.clamp(min=GUIDE_LIMIT)
        limited: torch.Tensor = change * kept.view(-1, 1, 1, 1)
        return limited

    def _to_output(self, sample: torch.Tensor, output_type: str, return_dict: bool) -> Any:
        """Returns images; values that were not finite are NaN, infinities too."""
        decoded = self.decode_pixels(sample) / 2 + 0.5
        pixels = decoded.clamp(0, 1).masked_fill(~decoded.isfinite(), torch.nan)
        images: Any = pixels
        if output_type != "pt":
            images = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def check_strength(strength: float) -> None:
    """Checks the share of the path that is run again.

    Raises:
        ValueError: outside (0, 1].
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must be in (0, 1], got {strength}")


def check_labels(class_labels: Sequence[int] | None, known: int) -> None:
    """Checks indices of classes; `known` and -1 mean none.

    Raises:
        ValueError: an index that no class has.
    """
    if class_labels is not None and not all(-1 <= label <= known for label in class_labels):
        raise ValueError(f"class labels must be -1..{known}, got {list(class_labels)}")


def stack_images(images: NDArray[np.uint8] | Sequence[Image.Image]) -> torch.Tensor:
    """Returns (N, 3, H, W) float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(one) for one in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0
