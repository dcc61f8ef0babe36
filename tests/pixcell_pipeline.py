"""The pipeline of a tiny twin of PixCell: its call, on noise and embeddings, without a text."""

from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class NullEmbedding(ModelMixin, ConfigMixin):
    """A learned embedding that stands for none."""

    @register_to_config
    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.randn(1, tokens, dim))


class PixCellPipeline(DiffusionPipeline):
    """Denoises latents on embeddings."""

    def __init__(self, vae: Any, transformer: Any, null: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, null=null, scheduler=scheduler)
        self.vae_scale_factor = 2

    def get_unconditional_embedding(self, batch_size: int = 1) -> torch.Tensor:
        return self.null.rows.expand(batch_size, -1, -1)

    @torch.no_grad()
    def __call__(
        self,
        num_inference_steps: int = 2,
        guidance_scale: float = 1.5,
        generator: Any = None,
        uni_embeds: torch.Tensor | None = None,
        negative_uni_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        if guidance_scale > 1 and negative_uni_embeds is None:
            raise ValueError("guidance needs negative_uni_embeds")
        tokens = torch.cat([negative_uni_embeds, uni_embeds])
        self.scheduler.set_timesteps(num_inference_steps)
        scales = [guidance_scale] * len(self.scheduler.timesteps)
        return self.denoise(tokens, scales, generator, output_type)

    def denoise(
        self, tokens: torch.Tensor, scales: list[float], generator: Any, output_type: str
    ) -> ImagePipelineOutput:
        """Walks the timesteps on (2 N, T, dim) tokens, null ones first, a guidance for each."""
        count = len(tokens) // 2
        shape = (count, 4, 16, 16)
        latents = randn_tensor(shape, generator=generator, device=self._execution_device)
        for scale, time in zip(scales, self.scheduler.timesteps, strict=True):
            noise = self.transformer(
                torch.cat([latents, latents]),
                encoder_hidden_states=tokens,
                timestep=time.expand(2 * count),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample.chunk(2, 1)[0]
            without, within = noise.chunk(2)
            guided = without + scale * (within - without)
            latents = self.scheduler.step(guided, time, latents).prev_sample
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ImagePipelineOutput(VaeImageProcessor().postprocess(images, output_type=output_type))
