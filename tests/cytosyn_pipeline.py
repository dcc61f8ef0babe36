"""The pipeline of a tiny twin of CytoSyn: its call, with a vector or without."""

from typing import Any

import torch

from tests import pixcell_pipeline as twin


class CytoSynPipeline(twin.PixCellPipeline):
    """Denoises latents on one vector; guided between two shares of the path."""

    @torch.no_grad()
    def __call__(
        self,
        h0_mini_embeds: torch.Tensor | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 250,
        guidance_scale: float = 1.0,
        guidance_low: float = 0.0,
        guidance_high: float = 1.0,
        generator: Any = None,
        output_type: str = "pil",
    ) -> twin.ImagePipelineOutput:
        count = num_images_per_prompt if h0_mini_embeds is None else len(h0_mini_embeds)
        null = self.get_unconditional_embedding(count)
        tokens = null if h0_mini_embeds is None else h0_mini_embeds[:, None]
        self.scheduler.set_timesteps(num_inference_steps)
        shares = [number / num_inference_steps for number in range(num_inference_steps)]
        scales = [guidance_scale if guidance_low <= each <= guidance_high else 1 for each in shares]
        return self.denoise(torch.cat([null, tokens]), scales, generator, output_type)
