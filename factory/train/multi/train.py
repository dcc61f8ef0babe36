"""Trains a generator of parallel streams from scratch, and exports the best weights."""

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss

from factory.core.hashing import derive_seed
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.multi_network import LEAST_SIGMA
from factory.models.generators.weights import compute_weights_digest
from factory.train.ahead import Ahead
from factory.train.generator.trainer import FlowTrainer
from factory.train.multi.batches import MultiBatch, draw_batch
from factory.train.multi.export import build_entry, list_facts
from factory.train.multi.network import MultiDenoiser, build_denoiser, start_from
from factory.train.multi.reading import teach_streams
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial, prepare_material
from factory.train.multi.validation import MultiJudge, encode, fold, save_sample_grid

_Tokens = tuple[torch.Tensor | None, torch.Tensor | None]
_Pass = tuple[MultiBatch, torch.Tensor, torch.Tensor, torch.Tensor, _Tokens]


class MultiTrainer(FlowTrainer[MultiRecipe, MultiMaterial]):
    """Learns the velocity by flow matching, and, where it is asked to, to see as a teacher does.

    The weights exported are the running average's at the validation with the lowest loss; without
    held-out images, the last.
    """

    network: MultiDenoiser
    prepare = staticmethod(prepare_material)
    enter, tell = staticmethod(build_entry), staticmethod(list_facts)
    pipeline = MultiPipeline
    betas = (0.9, 0.99)
    compiled, measure = "transformer", "validation_loss"

    @cached_property
    def _judge(self) -> MultiJudge:
        return MultiJudge(self._recipe, self._material, self._device)

    @cached_property
    def _ahead(self) -> Ahead[_Pass]:
        return Ahead(self._draw, self.accumulate, self._device)

    @cached_property
    def _dtype(self) -> torch.dtype:
        return choose_precision(self._recipe.training.precision, self._device)

    def build(self) -> MultiDenoiser:
        """Returns a network of the streams that the data have."""
        material = self._material
        network = build_denoiser(
            self._recipe, material.collection, material.tokenizer, material.embedding_dim,
            material.scales, material.foretelling, material.language_model, material.start,
        )  # fmt: skip
        return network.to(memory_format=torch.channels_last)

    def start(self, network: MultiDenoiser, pipeline: MultiPipeline) -> None:
        """Copies the weights of a pipeline."""
        start_from(network, self._material.collection, pipeline)

    def _draw(self, step: int, turn: int) -> _Pass:
        """Returns batch, folded images, noise, times and tokens of one pass, on the device."""
        recipe, material, device = self._recipe, self._material, self._device
        key = (step, turn, self._accelerator.process_index)
        batch = draw_batch(recipe, material.collection, material.grid, material.scales, key, device)
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "noise", *key))
        clean = fold(batch.images, recipe)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = draw_times(recipe, len(clean), generator).to(device)
        return batch, clean, noise, times, encode(material, batch.captions, device)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        """Returns the squared error of the velocity, and what alignment adds."""
        recipe, material = self._recipe, self._material
        batch, clean, noise, times, (tokens, mask) = self._ahead.take(step, turn)
        weight = times.view(-1, 1, 1, 1)
        noisy = (1 - weight) * clean + weight * noise
        # On a CPU the fused attention goes backward slowly over so few tokens.
        attention = sdpa_kernel(SDPBackend.MATH) if self._device.type == "cpu" else nullcontext()
        with (
            attention,
            torch.autocast(
                self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
            ),
        ):
            velocity, places, pooled = network(
                noisy, times, batch.streams, tokens, mask, material.look(batch.images),
            )  # fmt: skip
        target = noise - clean
        if recipe.network.prediction == "image":  # where the velocity is blown up no further
            target = (noisy - clean) / weight.clamp(min=LEAST_SIGMA)
        options = recipe.training
        loss: torch.Tensor = mse_loss(velocity.float(), target)
        loss = loss + options.alignment * places + options.alignment_pooled * pooled
        return loss

    def compose(self, network: MultiDenoiser) -> dict[str, Any]:
        """Returns the network, how it sees pixels and embeddings, and what it predicts."""
        told = self._recipe.network
        encoder = self._recipe.data.encoder or ""
        parts = {"transformer": network.transformer, "encoder": encoder}
        return {**parts, "fold": told.fold, "prediction": told.prediction}

    def judge(self, average: MultiDenoiser, folder: Path, grid: Path) -> dict[str, float]:
        """Measures the loss, and draws held-out views."""
        measured = self._judge.measure(average)
        save_sample_grid(self._material, folder, self._recipe, self._judge.rows, grid)
        return measured

    def teach(self, network: MultiDenoiser) -> float:
        """Teaches the text model to read captions."""
        return teach_streams(self._recipe, self._material, network)

    def describe(self) -> dict[str, Any]:
        """Returns the fields that shape the weights, and what identifies views."""
        described = super().describe()
        described.pop("data")
        training = described["training"]  # as records from before these fields counted have it
        training["reading_steps"] = 0
        plain = type(self._recipe.training).model_fields
        for name in ("control_rate", "vector_noise", "foretell"):
            if training[name] == plain[name].default:
                del training[name]
        text = described["network"].pop("text")  # None is as before there was any
        if text is not None:
            digest = compute_weights_digest(Path(text["encoder"]))
            described["network"]["text"] = {"queries": text["queries"], "weights_sha256": digest}
        sources = self._recipe.data.sources
        found = {"views": self._material.collection.digest, "weights": [x.weight for x in sources]}
        alone = [each.alone for each in sources]
        return described | found | ({"alone": alone} if any(alone) else {})


def draw_times(recipe: MultiRecipe, count: int, generator: torch.Generator) -> torch.Tensor:
    """Returns (count,) shares of noise, uniform, or logit-normal about `training.time_shift`.

    Large images need more noise to be hidden (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).
    """
    if recipe.training.times == "uniform":
        return torch.rand(count, generator=generator)
    return torch.sigmoid(torch.randn(count, generator=generator) + recipe.training.time_shift)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Returns the type to multiply in; `auto` is bfloat16 where the device has instructions for it.

    Without them it is emulated: on a CPU of AVX2 alone layers were 6 to 27 times as slow.
    """
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if device.type == "cpu" and has is not None and has() else torch.float32
