"""`FlowPipeline`: flow matching on pixels or latents under any subset of class, caption, image."""

import functools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from PIL import Image

from factory.models.generators.conditioner import Conditioner
from factory.models.generators.guiders import GuiderSettings, Predictions
from factory.models.generators.pausing import Pause
from factory.models.generators.straight import (
    TEXT_TOKENS,
    Guide,
    Predict,
    StraightPipeline,
    check_labels,
    check_strength,
    stack_images,
)

sys.modules.setdefault("factory.generators.conditioner", sys.modules[Conditioner.__module__])
# Where `model_index.json` of models trained by version 0.1 looks for it.


class FlowPipeline(StraightPipeline):
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

    network_name = "unet"
    classes_name = "conditioner.class_embedding"
    classes_count = "classes"

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
        super().__init__(scheduler, text_encoder, tokenizer, vae)
        self.register_modules(unet=unet, conditioner=conditioner)
        self.register_to_config(class_names=class_names, fold=fold, data_std=data_std, mpp=mpp)

    @property
    def class_width(self) -> int:
        """Numbers of a class embedding."""
        return int(self.conditioner.config.dim)

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
        features: Sequence[torch.Tensor | None] | None = None,
        pause: Pause | None = None,
        guider: GuiderSettings | None = None,
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
            features: N times (reference_dim,) of `encode_look`, or None for no look, in place of
                those of `image`.
            pause: where it stops part-way, with the images foreseen there, or goes on.
            guider: how guidance makes one prediction of two; None: as Ho & Salimans do.

        Raises:
            ValueError: labels or strength out of range, streams of different lengths or none, or a
                stream that the model was not trained with.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        count = self._check(class_labels, prompts, image, strength)
        self._guidance_scale, self._guider = guidance_scale, guider
        first = self._choose_first(num_inference_steps, 1.0 if image is None else strength)
        pixels = None if image is None else stack_images(image).to(self._execution_device)
        shape = (count, self.unet.config.in_channels, *[self.unet.config.sample_size] * 2)
        sample = self._begin(shape, generator, pixels, first, pause)
        held = self.encode_conditions(count, class_labels, prompts, pixels, features)
        null = self.conditioner(count)

        def predict(sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return self._predict(sample, sigma, held, null)

        asked = None if guide is None else partial(self._ask, guide, guide_scale)
        sample = self._walk(sample, first, predict, asked, callback_on_step_end, pause)
        return self._to_output(sample, output_type, return_dict)

    def encode_conditions(
        self,
        count: int,
        class_labels: Sequence[int] | None,
        prompts: Sequence[str] | None,
        pixels: torch.Tensor | None,
        features: Sequence[torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        """Returns the (N, dim) condition vectors of the given streams."""
        device = self._execution_device
        labels = text = reference = None
        if class_labels is not None:
            known = len(self.class_names)
            labels = torch.tensor([x if x < known else -1 for x in class_labels], device=device)
        if prompts is not None and self.text_encoder is not None:
            text = encode_captions(self.tokenizer, self.text_encoder, prompts)
        if features is not None:
            empty = torch.zeros(self.conditioner.config.reference_dim, device=device)
            reference = torch.stack([empty if each is None else each for each in features])
        elif pixels is not None and self.conditioner.config.reference_dim:
            reference = self.conditioner.encode_reference(pixels)
        return self.conditioner(count, labels, text, reference)  # type: ignore[no-any-return]

    def build_predict(self, count: int, guidance_scale: float, **streams: Any) -> Predict:
        """Returns what predicts the velocity under class_labels, prompt and features.

        Raises:
            ValueError: labels out of range, or captions of a model without them.
        """
        given = {"class_labels": None, "prompt": None, "features": None, "guider": None, **streams}
        labels, prompts = given["class_labels"], given["prompt"]
        self._check(labels, prompts, [None] * count, 1.0)
        self._guidance_scale, self._guider = guidance_scale, given["guider"]
        held = self.encode_conditions(count, labels, prompts, None, given["features"])
        null = self.conditioner(count)
        return lambda sample, sigma: self._predict(sample, sigma, held, null)

    @property
    def sees_looks(self) -> bool:
        """Whether it was trained with references, whose features tell a look."""
        return bool(self.conditioner.config.reference_dim)

    @torch.no_grad()
    def encode_look(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Returns the (reference_dim,) mean features of (N, H, W, 3) images, of mean square 1.

        Raises:
            ValueError: a model that was trained without references.
        """
        if not self.sees_looks:
            raise ValueError("this model was trained without references: it knows no look")
        parts = [stack_images(images[row : row + 32]) for row in range(0, len(images), 32)]
        device = self._execution_device
        found = [self.conditioner.encode_reference(part.to(device)).float() for part in parts]
        mean = torch.cat(found).mean(0)
        return mean * torch.rsqrt(mean.square().mean() + 1e-6)

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
        check_labels(class_labels, len(self.class_names))
        if prompts is not None and any(prompts) and self.text_encoder is None:
            raise ValueError("this model was trained without captions: leave prompt out")
        check_strength(strength)
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
        guided = free + guidance * (bound - free)
        if self._guider is None:
            return guided
        found = Predictions(guided, bound, free, 1.0 - guidance, sample, sigma)
        return self._guider.guide(found)  # type: ignore[no-any-return]


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

    Captions are lowered, and cut to TEXT_TOKENS tokens. Each is read by itself: padded to the
    longest of its batch, the last bits of its features would depend on its company.
    """
    texts = [caption.lower().strip() for caption in captions]
    encode = functools.partial(_encode_caption, tokenizer, text_encoder)
    features = {text: encode(text) for text in dict.fromkeys(texts)}
    return torch.stack([features[text] for text in texts])


def _encode_caption(tokenizer: Any, text_encoder: Any, text: str) -> torch.Tensor:
    cut = {"truncation": True, "max_length": TEXT_TOKENS}
    tokens = tokenizer(text, return_tensors="pt", **cut).to(text_encoder.device)
    hidden = text_encoder(**tokens).last_hidden_state[0]
    return hidden.mean(0) if text else torch.zeros_like(hidden[0])
