"""Trains a flow-matching generator from scratch or from a checkpoint, and exports the best weights.

On several GPUs: `accelerate launch -m factory train generator RECIPE --out DIR`.
"""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

from factory.catalog.catalog import Catalogs
from factory.core.hashing import derive_seed
from factory.models.generators.flow import FlowPipeline
from factory.train.batches import draw_batch, tokenize
from factory.train.encoder.trunk import teach_reading
from factory.train.generator.export import write_catalog_entry, write_model_card
from factory.train.generator.network import Denoiser, build_denoiser, export_pipeline, start_from
from factory.train.generator.settings import OptimisationSettings, TrainingRecipe
from factory.train.generator.setup import Material, prepare_material
from factory.train.generator.validation import Judge, save_sample_grid
from factory.train.loop import Loop, Report, Trainer, compute_warmup, open_folder


def train_generator(
    recipe: TrainingRecipe, catalogs: Catalogs, out: Path, report: Report
) -> dict[str, Any] | None:
    """Trains, or resumes training, and writes the pipeline to `out`.

    The weights exported are the running average's at the validation with the lowest kernel
    distance to held-out images; without held-out images, the last.

    Args:
        recipe: what to train on and how; its paths are resolved.
        catalogs: where caption grid, classes and the model to go on from are looked up.
        out: folder of the exported pipeline; `out/training` holds checkpoint, log and samples.
        report: progress callback; a validation reports `kid`, `fd` and `validated`.

    Returns:
        `step`, `best_step`, and of the latter `kid`, `fd` and `validated`, None without validation.
        None in all processes but the first.

    Raises:
        SourceError: images that cannot be read or carry no class.
        InputError: a grid, class list or model that there is not, or that does not fit.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
    """
    options = recipe.training
    accelerator = Accelerator(
        device_placement=False, gradient_accumulation_steps=options.accumulate
    )
    folder = open_folder(out)
    with accelerator.main_process_first():
        material = prepare_material(recipe, catalogs, folder)
    trainer = _GeneratorTrainer(recipe, material, accelerator, out)
    loop = Loop(trainer, folder, _describe(recipe, material), accelerator)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    if options.compile:
        trainer.network.unet.compile()
    loop.run(report)
    if not accelerator.is_main_process:
        return None
    summary = trainer.summarise(loop.step)
    if options.reading_steps:
        measured = trainer.read(loop.average)
        loop.log(report, measured)
        summary |= measured
        write_catalog_entry(recipe, material, out)
        write_model_card(recipe, material, summary, out)
    return summary


class _GeneratorTrainer(Trainer):
    """Learns the velocity from noise to images (and the other way), by flow matching."""

    network: Denoiser
    max_norm = 1.0

    def __init__(
        self, recipe: TrainingRecipe, material: Material, accelerator: Accelerator, out: Path
    ) -> None:
        super().__init__()
        self._recipe, self._material, self._out = recipe, material, out
        self._accelerator = accelerator
        self._judge = Judge(recipe, material, accelerator.device)
        options = recipe.training
        self.network, self.learning_rate = _build(recipe, material), options.learning_rate
        self.steps, self.ema_decay = options.steps, options.ema_decay
        self.accumulate, self.validate_every = options.accumulate, recipe.validation.every
        self.checkpoint_every = options.checkpoint_every
        self.network.to(accelerator.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def compute_rate(self, step: int) -> float:
        return compute_rate(self._recipe.training, step)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        recipe, material, device = self._recipe, self._material, self._accelerator.device
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

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Samples the averaged weights and exports them where they are the best so far."""
        recipe, material, folder = self._recipe, self._material, self._out / "training"
        self._export(average, folder / "last")
        measured = self._judge.measure(folder / "last")
        grid = folder / f"samples-{step:07d}.png"
        save_sample_grid(material, folder / "last", recipe, grid)
        best = self.state.get("best")
        if not best or not measured or measured["kid"] < best["kid"]:
            self.state = {"best": measured, "best_step": step}
            self._export(average, self._out)
            shutil.copyfile(grid, self._out / "samples.png")
        write_catalog_entry(recipe, material, self._out)
        write_model_card(recipe, material, self.summarise(step), self._out)
        return measured

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        quality = {name: best.get(name) for name in ("kid", "fd", "validated")}
        return {"step": step, "best_step": self.state.get("best_step", 0), **quality}

    def read(self, average: Any) -> dict[str, float]:
        """Teaches the best weights to read captions and exports them; they are kept as they were.

        Returns:
            `reading`, and the distances of what is exported.
        """
        recipe, material, out = self._recipe, self._material, self._out
        folder, names = out / "training", material.images.class_names
        unread = folder / f"unread-{self.state['best_step']:07d}"
        if not unread.exists():
            partial = folder / "unread.tmp"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(out, partial, ignore=shutil.ignore_patterns("training"))
            partial.rename(unread)
        network = deepcopy(average)
        start_from(network, names, FlowPipeline.from_pretrained(unread, dtype=torch.float32))
        measured = {"reading": teach_reading(recipe, material, network)}
        self._export(network, out)
        measured |= self._judge.measure(out)
        save_sample_grid(material, out, recipe, out / "samples.png")
        return measured

    def _export(self, network: Denoiser, folder: Path) -> None:
        material = self._material
        names = material.images.class_names
        export_pipeline(self._recipe, network, material.tokenizer, material.vae, names, folder)


def compute_rate(options: OptimisationSettings, step: int) -> float:
    """Returns the learning-rate factor: warm-up, constant, then linear decay to 0."""
    left = options.steps - step
    fall = left / options.decay_steps if left < options.decay_steps else 1.0
    return min(compute_warmup(step, options.warmup_steps), fall)


def _build(recipe: TrainingRecipe, material: Material) -> Denoiser:
    """Builds a seeded network, or takes that of the model to go on from."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        network = build_denoiser(
            recipe.network,
            recipe.data.image_size,
            len(material.images.class_names),
            material.tokenizer,
            material.latent,
        )
    if material.start is not None:
        start_from(network, material.images.class_names, material.start)
    return network


def _describe(recipe: TrainingRecipe, material: Material) -> dict[str, Any]:
    """The fields that shape the weights; what is still to come may change on resume."""
    described: dict[str, Any] = json.loads(recipe.model_dump_json())
    for source in described["data"]["sources"]:
        source.pop("images")
    for name in ("steps", "decay_steps", "reading_steps", "checkpoint_every", "compile"):
        described["training"].pop(name)
    for section in ("validation", "sampling", "export", "init", "catalogs"):
        described.pop(section)
    return described | {"images": material.images.digest, "start": material.start_sha256}
