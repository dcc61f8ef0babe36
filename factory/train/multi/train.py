"""Trains a generator of parallel streams from scratch, and exports the best weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

from factory.catalog.catalog import Catalogs
from factory.core.hashing import derive_seed
from factory.models.generators.multi_network import LEAST_SIGMA
from factory.train.generator.train import compute_rate
from factory.train.loop import Loop, Report, Trainer, open_folder
from factory.train.multi.batches import draw_batch
from factory.train.multi.export import export_pipeline, write_catalog_entry, write_model_card
from factory.train.multi.network import MultiDenoiser, build_denoiser
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial, prepare_material
from factory.train.multi.validation import MultiJudge, encode, fold, save_sample_grid


def train_multi(
    recipe: MultiRecipe, catalogs: Catalogs, out: Path, report: Report
) -> dict[str, Any] | None:
    """Trains, or resumes training, and writes the pipeline to `out`.

    The weights exported are the running average's at the validation with the lowest loss; without
    held-out images, the last.

    Args:
        recipe: what to train on and how; its paths are resolved.
        catalogs: where caption grid and encoder are looked up.
        out: folder of the exported pipeline; `out/training` holds checkpoint, log, views, samples.
        report: progress callback.

    Returns:
        `step`, `best_step`, and of the latter `validation_loss` and `gap_STREAM`, where images were
        held out. None in all processes but the first.

    Raises:
        SourceError: an image, mask or table that cannot be read or does not fit.
        InputError: a grid or encoder that there is not, or that cannot teach.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
    """
    accelerator = Accelerator(
        device_placement=False, gradient_accumulation_steps=recipe.training.accumulate
    )
    folder = open_folder(out)
    with accelerator.main_process_first():
        material = prepare_material(recipe, catalogs, folder)
    trainer = MultiTrainer(recipe, material, accelerator, out)
    loop = Loop(trainer, folder, _describe(recipe, material), accelerator)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    if recipe.training.compile:
        trainer.network.transformer.compile()
    loop.run(report)
    return trainer.summarise(loop.step) if accelerator.is_main_process else None


class MultiTrainer(Trainer):
    """Learns the velocity by flow matching, and, where it is asked to, to see as a teacher does."""

    network: MultiDenoiser
    max_norm = 1.0

    def __init__(
        self, recipe: MultiRecipe, material: MultiMaterial, accelerator: Accelerator, out: Path
    ) -> None:
        super().__init__()
        self._recipe, self._material, self._out = recipe, material, out
        self._device, self._process = accelerator.device, accelerator.process_index
        self._judge = MultiJudge(recipe, material, accelerator.device)
        self._dtype = choose_precision(recipe.training.precision, accelerator.device)
        options = recipe.training
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            self.network = build_denoiser(
                recipe, material.collection, material.tokenizer, material.embedding_dim,
                material.scales,
            ).to(self._device)  # fmt: skip
        self.steps, self.learning_rate = options.steps, options.learning_rate
        self.ema_decay, self.accumulate = options.ema_decay, options.accumulate
        self.validate_every = recipe.validation.every
        self.checkpoint_every = options.checkpoint_every
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            betas=(0.9, 0.99),
        )

    def compute_rate(self, step: int) -> float:
        """Returns the factor of the learning rate in a step."""
        return compute_rate(self._recipe.training, step)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        """Returns the squared error of the velocity, and what alignment adds."""
        recipe, material, key = self._recipe, self._material, (step, turn, self._process)
        spread = material.scales.get("embedding", (None, None))[1]
        batch = draw_batch(recipe, material.collection, material.grid, spread, key)
        images = batch.images.to(self._device)
        clean = fold(images, recipe)
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "noise", *key))
        noise = torch.randn(clean.shape, generator=generator).to(self._device)
        weight = draw_times(recipe, len(clean), generator).to(self._device).view(-1, 1, 1, 1)
        noisy = (1 - weight) * clean + weight * noise
        tokens, mask = encode(material, batch.captions, self._device)
        with torch.autocast(
            self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        ):
            velocity, places, pooled = network(
                noisy, weight.flatten(), batch.streams.to(self._device), tokens, mask,
                material.look(images),
            )  # fmt: skip
        target = noise - clean
        if recipe.network.prediction == "image":  # where the velocity is blown up no further
            target = (noisy - clean) / weight.clamp(min=LEAST_SIGMA)
        options = recipe.training
        loss: torch.Tensor = mse_loss(velocity.float(), target)
        loss = loss + options.alignment * places + options.alignment_pooled * pooled
        return loss

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Measures the averaged weights, and exports them where they are the best so far."""
        recipe, material, folder = self._recipe, self._material, self._out / "training"
        average.eval()
        export_pipeline(recipe, material, average, folder / "last")
        measured = self._judge.measure(average)
        grid = folder / f"samples-{step:07d}.png"
        save_sample_grid(material, folder / "last", recipe, self._judge.rows, grid)
        best, name = self.state.get("best"), "validation_loss"
        if not best or not measured or measured[name] < best[name]:
            self.state = {"best": measured, "best_step": step}
            export_pipeline(recipe, material, average, self._out)
            if grid.exists():
                shutil.copyfile(grid, self._out / "samples.png")
        write_catalog_entry(recipe, material, self._out)
        write_model_card(recipe, material, self.summarise(step), self._out)
        return measured

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        return {"step": step, "best_step": self.state.get("best_step", 0), **best}


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


def _describe(recipe: MultiRecipe, material: MultiMaterial) -> dict[str, Any]:
    """The fields that shape the weights; what is still to come may change on resume."""
    described: dict[str, Any] = json.loads(recipe.model_dump_json())
    described.pop("data")
    for name in ("steps", "decay_steps", "checkpoint_every", "compile"):
        described["training"].pop(name)
    for section in ("validation", "sampling", "export", "catalogs"):
        described.pop(section)
    weights = [source.weight for source in recipe.data.sources]
    return described | {"views": material.collection.digest, "weights": weights}
