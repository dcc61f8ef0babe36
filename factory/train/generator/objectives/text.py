"""Objectives of the text-to-image families: Stable Diffusion 1 and 2, XL, and 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.train.adapter.settings import Choices
from factory.train.generator.objectives.base import (
    CLASSLESS,
    Subject,
    add_lora,
    draw_logit_normal,
    draw_normal,
    sample_images,
)

Prompt = dict[str, torch.Tensor]

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_UNET = (
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *(
        "conv1",
        "conv2",
        "conv_shortcut",
        "time_emb_proj",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
    ),
)
_JOINT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_TRANSFORMER = (
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    *("norm1.linear", "norm1_context.linear"),
)


class _TextObjective:
    """What the text families share: prompts for classes, latents, LoRA on the denoiser.

    A class is the words that stand for it in the prompt template; text encoders stay as they are.
    Prior images show the template without a class (prior preservation, Ruiz et al. 2023,
    arXiv 2208.12242, section 3.2).
    """

    choices: ClassVar[Choices] = Choices(
        steps=600, batch_size=4, learning_rate=1e-4, layers="attention", prior_weight=1.0
    )
    network_name: ClassVar[str]

    def __init__(self, subject: Subject) -> None:
        self._generator = generator = subject.generator
        settings = subject.settings
        self._template = settings.template
        self._words = dict(subject.words)
        self._pipeline = generator.model.pipeline
        self._network = getattr(self._pipeline, self.network_name)
        self._size = (generator.capabilities.height, generator.capabilities.width)
        targets = self._list_targets(settings.layers == "all")
        seed = derive_seed(settings.seed, "lora")
        self._parameters = add_lora(self._network, targets, settings.rank or 1, seed)
        self._prompts: dict[str | None, Prompt] = {}

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The low-rank matrices by name."""
        return self._parameters

    @property
    def rates(self) -> Mapping[str, float]:
        """None differs."""
        return {}

    def sample(self, conditions: Sequence[str | None], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Samples (N, H, W, 3) uint8 RGB with the present weights."""
        prompts = [self.write_prompt(condition) for condition in conditions]
        return sample_images(self._generator, {"prompt": prompts}, seeds)

    def describe_entry(self) -> dict[str, Any]:
        """Returns template, words and class names."""
        return {
            "class_names": list(self._words),
            "prompt_template": self._template,
            "class_prompts": dict(self._words),
        }

    def write_prompt(self, condition: str | None) -> str:
        """Returns the text of a condition."""
        if condition is None:
            return ""
        words = "" if condition == CLASSLESS else self._words[condition]
        text = self._template.replace("{class_name}", words)
        return text if words else text.strip(" ,;:.-")

    def save(self, folder: Path) -> None:
        """Writes the matrices as diffusers' `load_lora_weights` reads them.

        The names stay peft's: diffusers' own converter renames those of attention only, and of a
        file with both kinds of names it loads one kind.
        """
        from peft.utils import get_peft_model_state_dict

        found = get_peft_model_state_dict(self._network)
        layers = {name: value.detach().cpu().contiguous() for name, value in found.items()}
        type(self._pipeline).save_lora_weights(
            folder, **{f"{self.network_name}_lora_layers": layers}, safe_serialization=True
        )

    def _list_targets(self, everything: bool) -> tuple[str, ...]:
        raise NotImplementedError

    def _encode_prompt(self, text: str | None) -> Prompt:
        raise NotImplementedError

    def _gather_prompts(self, conditions: Sequence[str | None]) -> Prompt:
        """Returns the (B, ...) encoded prompts; each text is encoded once."""
        with torch.no_grad():
            for condition in dict.fromkeys(conditions):
                if condition not in self._prompts:
                    self._prompts[condition] = self._encode_prompt(
                        None if condition is None else self.write_prompt(condition)
                    )
        rows = [self._prompts[condition] for condition in conditions]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    @torch.no_grad()
    def _encode_images(self, pixels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Draws float32 latents of (B, 3, H, W) images in [-1, 1], scaled as the denoiser has them.

        Autoencoders that overflow in half precision say so by `force_upcast`.
        """
        vae = self._pipeline.vae
        dtype = vae.dtype
        upcast = bool(vae.config.get("force_upcast")) and dtype != torch.float32
        if upcast:
            vae.to(torch.float32)
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        if upcast:
            vae.to(dtype)
        mean, spread = latents.mean.float(), latents.std.float()
        drawn: torch.Tensor = mean + spread * draw_normal(mean, draw)
        config = vae.config
        factor = float(config.scaling_factor)
        centre, scale = config.get("latents_mean"), config.get("latents_std")
        if centre is not None and scale is not None:
            centre, scale = (
                torch.tensor(each).to(drawn).view(1, -1, 1, 1) for each in (centre, scale)
            )
            return (drawn - centre) / scale * factor
        return (drawn - float(config.get("shift_factor") or 0.0)) * factor


class NoiseObjective(_TextObjective):
    """Stable Diffusion 1, 2 and XL: a UNet that predicts noise (epsilon) or velocity v.

    The squared error of epsilon (Ho et al. 2020, arXiv 2006.11239, equation 14) or of
    v = alpha noise - sigma x (Salimans & Ho 2022, arXiv 2202.00512, section 4), as the base's own
    scheduler says, at times drawn uniformly.
    """

    network_name: ClassVar[str] = "unet"

    def __init__(self, subject: Subject) -> None:
        from diffusers import DDPMScheduler

        super().__init__(subject)
        config = subject.generator.model.scheduler.config
        self._schedule = DDPMScheduler.from_config(config)
        self._target = str(config.get("prediction_type", "epsilon"))
        if self._target not in ("epsilon", "v_prediction"):
            raise InputError(
                f"model {subject.settings.base}: predicts {self._target!r}: adapters are trained "
                "for epsilon and v_prediction only"
            )
        self._is_xl = self._network.config.get("addition_embed_type") == "text_time"

    def compute_losses(
        self, pixels: torch.Tensor, conditions: Sequence[str | None], draw: torch.Generator
    ) -> torch.Tensor:
        """Returns the (B,) squared error of the prediction."""
        latents = self._encode_images(pixels, draw)
        noise = draw_normal(latents, draw)
        steps = len(self._schedule.alphas_cumprod)
        times = torch.randint(0, steps, (len(latents),), generator=draw).to(latents.device)
        noisy = self._schedule.add_noise(latents, noise, times)
        target = noise
        if self._target == "v_prediction":
            target = self._schedule.get_velocity(latents, noise, times)
        prompts = self._gather_prompts(conditions)
        extra: dict[str, Any] = {}
        if self._is_xl:
            pooled = prompts["pooled"]
            extra["added_cond_kwargs"] = {
                "text_embeds": pooled,
                "time_ids": self._make_time_ids(pooled),
            }
        predicted = self._network(
            noisy.to(self._network.dtype), times, prompts["states"], **extra
        ).sample
        error: torch.Tensor = predicted.float() - target
        return error.square().mean((1, 2, 3))

    def _list_targets(self, everything: bool) -> tuple[str, ...]:
        return (*_ATTENTION, *(_UNET if everything else ()))

    def _make_time_ids(self, pooled: torch.Tensor) -> torch.Tensor:
        """Returns (B, 6): sizes and crop of uncropped images (Podell et al. 2023, 2307.01952)."""
        ids = torch.tensor([[*self._size, 0, 0, *self._size]])
        return ids.to(pooled.device, pooled.dtype).repeat(len(pooled), 1)

    def _encode_prompt(self, text: str | None) -> Prompt:
        found = self._pipeline.encode_prompt(
            prompt=text or "",
            device=self._pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        if not self._is_xl:
            return {"states": found[0]}
        states, pooled = found[0], found[2]
        if text is None and self._pipeline.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        return {"states": states, "pooled": pooled}


class FlowTextObjective(_TextObjective):
    """Stable Diffusion 3: a transformer that predicts the velocity noise - x of a straight path.

    The squared error at logit-normal times, shifted as the base's own scheduler shifts them (Esser
    et al. 2024, arXiv 2403.03206, section 3.1 and equation 23).
    """

    network_name: ClassVar[str] = "transformer"

    def compute_losses(
        self, pixels: torch.Tensor, conditions: Sequence[str | None], draw: torch.Generator
    ) -> torch.Tensor:
        """Returns the (B,) squared error of the velocity."""
        latents = self._encode_images(pixels, draw)
        noise = draw_normal(latents, draw)
        times = draw_logit_normal(len(latents), draw).to(latents.device)
        shift = self._compute_shift(latents)
        sigma = shift * times / (1 + (shift - 1) * times)
        weight = sigma.view(-1, 1, 1, 1)
        noisy = (1 - weight) * latents + weight * noise
        prompts = self._gather_prompts(conditions)
        predicted = self._network(
            hidden_states=noisy.to(self._network.dtype),
            timestep=sigma * self._generator.model.scheduler.config.num_train_timesteps,
            encoder_hidden_states=prompts["states"],
            pooled_projections=prompts["pooled"],
        ).sample
        error: torch.Tensor = predicted.float() - (noise - latents)
        return error.square().mean((1, 2, 3))

    def _list_targets(self, everything: bool) -> tuple[str, ...]:
        return (*_ATTENTION, *_JOINT_ATTENTION, *(_TRANSFORMER if everything else ()))

    def _compute_shift(self, latents: torch.Tensor) -> float:
        """Returns the base's shift of times towards noise; a dynamic one depends on the size."""
        import math

        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
            calculate_shift,
        )

        config = self._generator.model.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        patches = latents.shape[2] * latents.shape[3] // self._network.config.patch_size**2
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return math.exp(calculate_shift(patches, *(config[name] for name in names)))

    def _encode_prompt(self, text: str | None) -> Prompt:
        states, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=text or "",
            prompt_2=None,
            prompt_3=None,
            device=self._pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            max_sequence_length=self._generator.describe()["arguments"]["max_sequence_length"],
        )
        return {"states": states, "pooled": pooled}
