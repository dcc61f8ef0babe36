"""`dit`: class-conditional diffusion transformers, with a null class for any number of classes."""

from typing import Any

from factory.core.errors import InputError
from factory.models.generators.families.pipeline import ClassFamily

_NULL_LABEL = 1000  # hard-coded in DiTPipeline.__call__; huggingface/diffusers issue 13616


class DiTFamily(ClassFamily):
    """DiT (Peebles & Xie 2023, arXiv 2212.09748)."""

    kind = "dit"
    pipelines = ("diffusers:DiTPipeline",)
    guidance = "call"
    null_condition = "extra class embedding"
    scale = 4.0
    sized = False
    inverts = True

    def run_latents(self, pipeline: Any, latents: Any, arguments: dict[str, Any], to: str) -> Any:
        """Steps as `DiTPipeline` does, whose call begins at noise of its own and ends at images."""
        import torch

        scale, labels = arguments["guidance_scale"], list(arguments["class_labels"])
        scheduler, network, sample = pipeline.scheduler, pipeline.transformer, latents
        halves = 2 if scale > 1 else 1
        nulls = [_NULL_LABEL] * len(labels) * (halves - 1)
        told = torch.tensor([*labels, *nulls], device=latents.device)
        scheduler.set_timesteps(arguments["num_inference_steps"])
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                times = timestep.to(latents.device).expand(len(told))
                entered = scheduler.scale_model_input(torch.cat([sample] * halves), timestep)
                noise = network(entered, timestep=times, class_labels=told).sample
                noise = noise[:, : latents.shape[1]]  # without the variances that it learned
                if scale > 1:
                    wanted, plain = noise.chunk(2)
                    noise = plain + scale * (wanted - plain)
                sample = scheduler.step(noise, timestep, sample).prev_sample
            if to == "latent":
                return sample
            pixels = pipeline.vae.decode(sample / pipeline.vae.config.scaling_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()

    def prepare(self, pipeline: Any) -> None:
        """Makes classifier-free guidance use the model's own null class.

        `DiTPipeline` sends label 1000 for the null class. The embedding table of a model with n
        classes has its null class at row n (Peebles & Xie 2023, appendix A), so the label is
        replaced on its way into the transformer.

        Raises:
            InputError: more than 1000 classes, where label 1000 is a class too.
        """
        transformer = pipeline.transformer
        classes = int(transformer.config.num_embeds_ada_norm)
        if classes == _NULL_LABEL:
            return
        if classes > _NULL_LABEL:
            raise InputError(
                f"DiTPipeline: {classes} classes: it takes label {_NULL_LABEL} for the null class, "
                f"so models with more than {_NULL_LABEL} classes cannot be sampled"
            )

        def replace_label(
            _module: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            labels = arguments["class_labels"]
            arguments["class_labels"] = labels.masked_fill(labels == _NULL_LABEL, classes)
            return inputs, arguments

        transformer.register_forward_pre_hook(replace_label, with_kwargs=True)
