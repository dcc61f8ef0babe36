"""The pipeline of a tiny twin of CytoSyn: its call, with a vector or without."""

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

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
        shape = (count, 4, 16, 16)
        latents = randn_tensor(shape, generator=generator, device=self._execution_device)
        null = self.get_unconditional_embedding(count)
        tokens = null if h0_mini_embeds is None else h0_mini_embeds[:, None]
        self.scheduler.set_timesteps(num_inference_steps)
        for number, time in enumerate(self.scheduler.timesteps):
            share = number / num_inference_steps
            scale = guidance_scale if guidance_low <= share <= guidance_high else 1.0
            noise = self.transformer(
                torch.cat([latents, latents]),
                encoder_hidden_states=torch.cat([null, tokens]),
                timestep=time.expand(2 * count),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample.chunk(2, 1)[0]
            without, within = noise.chunk(2)
            guided = without + scale * (within - without)
            latents = self.scheduler.step(guided, time, latents).prev_sample
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        made = twin.VaeImageProcessor().postprocess(images, output_type=output_type)
        return twin.ImagePipelineOutput(made)
