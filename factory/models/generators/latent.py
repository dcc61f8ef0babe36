"""`LatentPipeline`: latent diffusion of the CompVis code under a text, a class or an embedding."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    ConfigMixin,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.nn import functional


class LatentConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A class, or an embedding of another encoder, as the one token that the UNet attends to.

    Args:
        dim: width of the token.
        classes: number of class embeddings, the last of which is no class; 0: none.
        embedding_dim: width of the embeddings of another encoder, which one linear layer maps;
            0: none. Zeros are no embedding.
        normalise: bring embeddings to length 1 first.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, dim: int, classes: int = 0, embedding_dim: int = 0, normalise: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, dim) if classes else None
        self.patch_fc = nn.Linear(embedding_dim, dim) if embedding_dim else None

    def forward(self, given: torch.Tensor, scales: None = None) -> torch.Tensor:
        """Returns (N, 1, dim) tokens of (N,) labels or (N, embedding_dim) embeddings.

        Raises:
            ValueError: scales, which it has none of.
        """
        if scales is not None:
            raise ValueError("takes no scales: leave them out")
        if self.embedding is not None:
            token: torch.Tensor = self.embedding(given)
        else:
            token = functional.normalize(given, dim=-1) if self.config.normalise else given
            token = self.patch_fc(token)  # type: ignore[misc]
        return token[:, None]

    def encode_null(self, count: int) -> torch.Tensor:
        """Returns the tokens of no condition: the last class, or those of zeros."""
        if self.embedding is not None:
            return self(torch.full((count,), self.config.classes - 1, device=self.device))  # type: ignore[no-any-return]
        zeros = torch.zeros(count, self.config.embedding_dim, dtype=self.dtype)
        return self(zeros.to(self.device))  # type: ignore[no-any-return]


class LatentPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples latents by a UNet with cross-attention, and decodes them.

    After Rombach et al. 2022 (arXiv 2112.10752): epsilon or v prediction, classifier-free guidance
    from a null token. `factory models convert` writes its folders.

    Args:
        vae: `VQModel` or `AutoencoderKL`.
        unet: predicts what `scheduler` steps.
        scheduler: of diffusers.
        conditioner: `LatentConditioner` of classes or embeddings, or `GridConditioner`; None where
            texts are given.
        text_encoder: `CLIPTextModel`; None where classes or embeddings are given.
        tokenizer: of the text encoder.
        takes: stream that its condition is: `caption`, `class_name` or `embedding`.
        class_names: the classes in the order of their embeddings, comma-separated.
        mpp: µm per pixel of the training images.
        windows: of CLIP's tokens that a text fills. Of more than one, as in PathLDM's code, no
            token attends to what pads the text.
    """

    _optional_components: ClassVar[list[str]] = ["conditioner", "text_encoder", "tokenizer"]

    def __init__(
        self,
        vae: Any,
        unet: UNet2DConditionModel,
        scheduler: Any,
        conditioner: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        takes: str = "caption",
        class_names: str = "",
        mpp: float | None = None,
        windows: int = 1,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, conditioner=conditioner)
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(takes=takes, class_names=class_names, mpp=mpp)
        self.register_to_config(windows=windows)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their embeddings."""
        return tuple(name for name in self.config.class_names.split(",") if name)

    @property
    def image_size(self) -> int:
        """Height and width of the images, px."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size: int = self.unet.config.sample_size * factor
        return size

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str] | None = None,
        class_labels: Sequence[int] | None = None,
        embeddings: torch.Tensor | None = None,
        scales: Sequence[int] | None = None,
        negative_prompt: Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.5,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        """Samples one image for each text, label or embedding.

        Args:
            prompt: N texts, cut at the tokenizer's length.
            class_labels: (N,) indices into `class_names`.
            embeddings: (N, embedding_dim), or a grid (N, T, embedding_dim).
            scales: of grids, N numbers from 0, the finest; None: as their numbers of tokens say.
            negative_prompt: N texts in the place of the empty one.
            num_inference_steps: of the scheduler.
            guidance_scale: 1 switches guidance off and halves the work.
            generator: one for each image, or one for all.
            output_type: `pil`, or `np`: (N, H, W, 3) float in [0, 1].

        Raises:
            ValueError: another condition than the model takes.
        """
        given = {"caption": prompt, "class_name": class_labels, "embedding": embeddings}
        condition = given.pop(self.config.takes)
        if condition is None or any(each is not None for each in given.values()):
            raise ValueError(f"takes {self.config.takes} alone: give that, and nothing else")
        held = self._encode(condition, scales)
        count = len(held)
        null = self._encode_null(count, negative_prompt)
        size = self.unet.config.sample_size
        latents: torch.Tensor = randn_tensor(
            (count, self.unet.config.in_channels, size, size),
            generator=generator,
            device=self._execution_device,
            dtype=held.dtype,
        )
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        latents = latents * self.scheduler.init_noise_sigma
        for timestep in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(latents, timestep)
            predicted = self.unet(scaled, timestep, encoder_hidden_states=held).sample
            if guidance_scale != 1.0:
                free = self.unet(scaled, timestep, encoder_hidden_states=null).sample
                predicted = free + guidance_scale * (predicted - free)
            latents = self.scheduler.step(predicted, timestep, latents).prev_sample
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        pixels = (images / 2 + 0.5).clamp(0, 1).float().cpu().permute(0, 2, 3, 1).numpy()
        found = self.numpy_to_pil(pixels) if output_type == "pil" else pixels
        return ImagePipelineOutput(images=found)

    def _encode(self, condition: Any, scales: Sequence[int] | None = None) -> torch.Tensor:
        """Returns the (N, T, dim) tokens of texts, labels or embeddings, and their scales."""
        device = self._execution_device
        if self.config.takes == "caption":
            tokens = self.tokenizer(
                list(condition),
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            mask = tokens.attention_mask.to(device) if self.config.windows > 1 else None
            found: torch.Tensor = self.text_encoder(tokens.input_ids.to(device), mask)[0]
            return found
        if self.config.takes == "class_name":
            return self.conditioner(torch.as_tensor(list(condition), device=device))  # type: ignore[no-any-return]
        given = torch.as_tensor(condition).to(device, self.conditioner.dtype)
        return self.conditioner(given, scales)  # type: ignore[no-any-return]

    def _encode_null(self, count: int, negative: Sequence[str] | None) -> torch.Tensor:
        """Returns the tokens of no condition: the empty text, the last class, zeros."""
        if self.config.takes == "caption":
            return self._encode(negative or [""] * count)
        return self.conditioner.encode_null(count)  # type: ignore[no-any-return]
