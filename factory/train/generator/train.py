"""Trains a flow-matching generator from scratch or from a checkpoint, and exports the best weights.

On several GPUs: `accelerate launch -m factory train generator RECIPE --out DIR`.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from factory.core.hashing import derive_seed
from factory.models.generators.flow import FlowPipeline
from factory.train.batches import draw_batch, tokenize
from factory.train.encoder.trunk import teach_reading
from factory.train.generator.export import build_entry, list_facts
from factory.train.generator.network import Denoiser, build_denoiser, start_from
from factory.train.generator.settings import TrainingRecipe
from factory.train.generator.setup import Material, prepare_material
from factory.train.generator.trainer import FlowTrainer
from factory.train.generator.validation import Judge, save_sample_grid


class GeneratorTrainer(FlowTrainer[TrainingRecipe, Material]):
    """Learns the velocity from noise to images (and the other way), by flow matching.

    The weights exported are the running average's at the validation with the lowest kernel
    distance (`kid`) to held-out images; without held-out images, the last.
    """

    network: Denoiser
    prepare = staticmethod(prepare_material)
    enter, tell = staticmethod(build_entry), staticmethod(list_facts)
    pipeline = FlowPipeline
    compiled, measure = "unet", "kid"

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._recipe, self._material, self._device)

    def build(self) -> Denoiser:
        """Returns a seeded network."""
        recipe, material = self._recipe, self._material
        return build_denoiser(
            recipe.network,
            recipe.data.image_size,
            len(material.class_names),
            material.tokenizer,
            material.latent,
        )

    def start(self, network: Denoiser, pipeline: FlowPipeline) -> None:
        """Copies the weights of a pipeline."""
        start_from(network, self._material.class_names, pipeline)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        """Returns the squared error of the velocity."""
        recipe, material, device = self._recipe, self._material, self._device
        key = (step, turn, self._accelerator.process_index)
        batch = draw_batch(recipe, material.images, material.write, key)
        target = material.encode(batch.images.to(device))
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "noise", *key))
        noise = torch.randn(target.shape, generator=generator).to(device)
        weight = batch.sigma.to(device).view(-1, 1, 1, 1)
        tokens = mask = None
        if material.tokenizer is not None:
            tokens, mask = (
                each.to(device) for each in tokenize(material.tokenizer, batch.captions)
            )
        reference = None if batch.reference is None else batch.reference.to(device)
        blur = None if batch.blur is None else batch.blur.to(device)
        dtype = getattr(torch, recipe.training.precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            velocity = network(
                (1 - weight) * target + weight * noise,
                weight.flatten(),
                batch.labels.to(device),
                tokens,
                mask,
                reference,
                blur,
            )
        return mse_loss(velocity.float(), noise - target)

    def judge(self, average: Any, folder: Path, grid: Path) -> dict[str, float]:
        """Samples an exported pipeline."""
        measured = self._judge.measure(folder)
        save_sample_grid(self._material, folder, self._recipe, grid)
        return measured

    def describe(self) -> dict[str, Any]:
        """Returns the fields that shape the weights, and what identifies the images."""
        described = super().describe()
        for source in described["data"]["sources"]:
            source.pop("images")
        return described | {"images": self._material.images.digest}

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave; None for what was not measured."""
        found = super().summarise(step)
        return found | {name: found.get(name) for name in ("kid", "fd", "validated")}

    def teach(self, network: Denoiser) -> float:
        """Teaches the text model to read captions."""
        return teach_reading(self._recipe, self._material, network)

    def compose(self, network: Denoiser) -> dict[str, Any]:
        """Returns the network's parts, and how it sees pixels."""
        vae = self._material.vae
        fold = self._recipe.network.fold if vae is None else 1
        parts = {"unet": network.unet, "conditioner": network.conditioner, "vae": vae}
        return {**parts, "fold": fold, "mpp": self._recipe.data.mpp}
