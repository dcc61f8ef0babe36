"""`FlowPipeline`: flow matching on pixels or latents under any subset of class, caption, image."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from factory.models.generators.conditioner import Conditioner

sys.modules.setdefault("factory.generators.conditioner", sys.modules[Conditioner.__module__])
# Where `model_index.json` of models trained by version 0.1 looks for it.

Guide = Callable[[torch.Tensor], torch.Tensor]
"""From (N, 3, H, W) images, in [-1, 1] but for overshoot, to (N,) log probabilities of what each
is to show; differentiable."""
GUIDE_LIMIT = 0.3
"""Most that a guide changes a velocity, as a share of its length: more, and images fall apart."""
TEXT_TOKENS = 64
"""Tokens of a caption that the pipeline keeps, its begin and end marks included."""


class FlowPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples small images, by default straight in pixel space, without an autoencoder.

    Pixels are folded by `pixel_unshuffle` (H, W, 3) -> (H/f, W/f, 3 f^2), or encoded by `vae`, and
    a `UNet2DModel` predicts the velocity `noise - image` of the straight path `x = (1 - sigma)
    image + sigma noise` (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003).
    Any flow scheduler of diffusers samples it. A condition may have a class, a caption, a reference
    image or any of them together; none is the null condition of classifier-free guidance (Ho &
    Salimans 2022, arXiv 2207.12598).

    Args:
        unet: velocity network; it takes the condition vector through `class_embed_type: identity`.
        scheduler: a scheduler that steps flow velocities and has `sigmas`.
        conditioner: turns the streams into the vector.
        text_encoder: `CLIPTextModel` of the captions, or None.
        tokenizer: its tokenizer, or None.
        vae: `AutoencoderKL` of a latent model, or None for pixels.
        class_names: the classes in the order of their embeddings, comma-separated (diffusers takes
            a list in `model_index.json` for a component and loses it).
        fold: pixel-unshuffle factor f of a model without `vae`.
        data_std: standard deviation of what the network models, for `apply_network`.
        mpp: µm per pixel of the training images.
    """

    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer", "vae"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Any,
        conditioner: Conditioner,
        text_encoder: Any = None,
        tokenizer: Any = None,
        vae: Any = None,
        class_names: str = "",
        fold: int = 1,
        data_std: float = 0.5,
        mpp: float | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            conditioner=conditioner,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            vae=vae,
        )
        self.register_to_config(class_names=class_names, fold=fold, data_std=data_std, mpp=mpp)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their embeddings."""
        return tuple(name for name in self.config.class_names.split(",") if name)

    @property
    def image_size(self) -> int:
        """Height and width of the images, px."""
        factor = int(self.config.fold)
        if self.vae is not None:
            factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.unet.config.sample_size) * factor

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the current or last call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | None = None,
        prompt: Sequence[str] | str | None = None,
        image: NDArray[np.uint8] | Sequence[Image.Image] | None = None,
        strength: float = 1.0,
        num_inference_steps: int = 12,
        guidance_scale: float = 1.0,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        guide: Guide | None = None,
        guide_scale: float = 1.0,
    ) -> Any:
        """Samples one image for each condition; give at least one stream.

        Args:
            class_labels: (N,) indices into `class_names`; `len(class_names)` or -1 is no class.
            prompt: N captions; an empty one is no caption.
            image: (N, H, W, 3) uint8 RGB or N RGB images of the pipeline's size to vary: their
                features are a condition, and where `strength` is below 1 the path starts at them.
            strength: share of the path that is run again for `image`, in (0, 1].
            num_inference_steps: scheduler steps of the whole path.
            guidance_scale: classifier-free guidance; 1 switches it off and halves the work.
            generator: one for each image, or one for all.
            output_type: `pil`, `np` ((N, H, W, 3) float in [0, 1]) or `pt` ((N, 3, H, W)). Values
                that were not finite are NaN, infinities too.
            return_dict: return an `ImagePipelineOutput` instead of a tuple.
            callback_on_step_end: `f(pipe, step, timestep, {})`; may set `pipe._guidance_scale`.
            guide: classifier guidance by what it says of the images foreseen at each step.
            guide_scale: how often its gradient is added; 1 is Bayes' rule.

        Raises:
            ValueError: labels or strength out of range, streams of different lengths or none, or a
                stream that the model was not trained with.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        count = self._check(class_labels, prompts, image, strength)
        self._guidance_scale = guidance_scale
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        first = 0 if image is None else self._choose_first(num_inference_steps, strength)
        pixels = None if image is None else _stack(image).to(self._execution_device)
        sample = self._begin(count, generator, pixels, first)
        held = self.encode_conditions(count, class_labels, prompts, pixels)
        null = self.conditioner(count)
        timesteps = self.scheduler.timesteps[first:]
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as bar:
            for step, timestep in enumerate(timesteps):
                # Some schedulers round their timesteps to integers; their sigmas are exact.
                sigma = self.scheduler.sigmas[first + step].to(sample.device)
                velocity = self._predict(sample, sigma, held, null)
                if guide is not None:
                    velocity = velocity - self._ask(guide, guide_scale, sample, sigma, velocity)
                sample = self.scheduler.step(velocity, timestep, sample).prev_sample
                if callback_on_step_end is not None:
                    callback_on_step_end(self, step, timestep, {})
                bar.update()
        return self._to_output(sample, output_type, return_dict)

    def _choose_first(self, steps: int, strength: float) -> int:
        """Returns the timestep at which the last share of the path starts."""
        return (steps - max(1, round(steps * strength))) * int(self.scheduler.order)

    def _begin(
        self,
        count: int,
        generator: Sequence[torch.Generator] | torch.Generator | None,
        pixels: torch.Tensor | None,
        first: int,
    ) -> torch.Tensor:
        """Returns where the path starts: at noise, or between it and the images to vary."""
        shape = (count, self.unet.config.in_channels, *[self.unet.config.sample_size] * 2)
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

    def encode_conditions(
        self,
        count: int,
        class_labels: Sequence[int] | None,
        prompts: Sequence[str] | None,
        pixels: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the (N, dim) condition vectors of the given streams."""
        device = self._execution_device
        labels = text = reference = None
        if class_labels is not None:
            known = len(self.class_names)
            labels = torch.tensor([x if x < known else -1 for x in class_labels], device=device)
        if prompts is not None and self.text_encoder is not None:
            text = encode_captions(self.tokenizer, self.text_encoder, prompts)
        if pixels is not None and self.conditioner.config.reference_dim:
            reference = self.conditioner.encode_reference(pixels)
        return self.conditioner(count, labels, text, reference)  # type: ignore[no-any-return]

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

    def _check(
        self,
        class_labels: Sequence[int] | None,
        prompts: Sequence[str] | None,
        image: Any | None,
        strength: float,
    ) -> int:
        """Returns the number of images asked for."""
        counts = {len(stream) for stream in (class_labels, prompts, image) if stream is not None}
        if len(counts) != 1:
            raise ValueError(f"give class_labels, prompt or image, equally many, got {counts}")
        known = len(self.class_names)
        if class_labels is not None and not all(-1 <= label <= known for label in class_labels):
            raise ValueError(f"class labels must be -1..{known}, got {list(class_labels)}")
        if prompts is not None and any(prompts) and self.text_encoder is None:
            raise ValueError("this model was trained without captions: leave prompt out")
        if not 0.0 < strength <= 1.0:
            raise ValueError(f"strength must be in (0, 1], got {strength}")
        return counts.pop()

    def _predict(
        self, sample: torch.Tensor, sigma: torch.Tensor, held: torch.Tensor, null: torch.Tensor
    ) -> torch.Tensor:
        guidance, std = self._guidance_scale, self.config.data_std
        if guidance == 1.0:
            return apply_network(self.unet, sample, sigma.expand(len(sample)), held, std)
        twice, both = torch.cat([sample, sample]), torch.cat([null, held])
        output = apply_network(self.unet, twice, sigma.expand(len(twice)), both, std)
        free, bound = output.chunk(2)
        return free + guidance * (bound - free)

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
        decoded = self.decode_pixels(sample) / 2 + 0.5
        pixels = decoded.clamp(0, 1).masked_fill(~decoded.isfinite(), torch.nan)
        images: Any = pixels
        if output_type != "pt":
            images = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _stack(images: NDArray[np.uint8] | Sequence[Image.Image]) -> torch.Tensor:
    """Returns (N, 3, H, W) float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(one) for one in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def apply_network(
    unet: UNet2DModel, sample: torch.Tensor, sigma: torch.Tensor, vector: torch.Tensor, std: float
) -> torch.Tensor:
    """Returns the velocity at `sample`, float32: what a line predicts, corrected by the network.

    The preconditioning of Karras et al. 2022 (arXiv 2206.00364, section 5) for the straight path:
    for data of standard deviation s, the best linear guess of the velocity from x is
    `(sigma - (1 - sigma) s^2) / D x` with `D = sigma^2 + (1 - sigma)^2 s^2`, and leaves a standard
    deviation of `s / sqrt(D)`, which is what the network's output is scaled by. So it predicts the
    noise where little is, and the image where much is, always at unit scale.

    Args:
        unet: its input is scaled to unit variance.
        sample: (N, C, h, w) float32 on the path.
        sigma: (N,) share of noise.
        vector: (N, dim) of `Conditioner`.
        std: s.
    """
    noise = sigma.to(sample).view(-1, 1, 1, 1)
    spread = noise**2 + (1 - noise) ** 2 * std**2
    scaled = (sample / spread.sqrt()).to(unet.dtype)
    output: torch.Tensor = unet(scaled, sigma * 1000, class_labels=vector).sample
    guess = (noise - (1 - noise) * std**2) / spread * sample
    return guess + std / spread.sqrt() * output.float()


def encode_captions(tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> torch.Tensor:
    """Returns (N, text_dim) features: the mean over each caption's tokens, zeros for an empty one.

    Captions are lowered, and cut to TEXT_TOKENS tokens.
    """
    tokens = tokenizer(
        [caption.lower().strip() for caption in captions],
        padding=True,
        truncation=True,
        max_length=TEXT_TOKENS,
        return_tensors="pt",
    )
    device = text_encoder.device
    mask = tokens["attention_mask"].to(device)
    hidden = text_encoder(tokens["input_ids"].to(device), attention_mask=mask).last_hidden_state
    given = torch.tensor([bool(caption.strip()) for caption in captions], device=device)
    weights = (mask * given.unsqueeze(1)).to(hidden.dtype).unsqueeze(2)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)  # type: ignore[no-any-return]
