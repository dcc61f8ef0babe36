"""Trains a flow-matching generator from scratch or from a checkpoint, and exports the best weights.

On several GPUs: `accelerate launch -m factory train generator RECIPE --out DIR`.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

from factory.catalog.catalog import Catalogs
from factory.core.hashing import derive_seed
from factory.models.generators.flow import FlowPipeline
from factory.train.batches import draw_batch, tokenize
from factory.train.encoder.trunk import teach_reading
from factory.train.generator.export import write_documents
from factory.train.generator.network import (
    Denoiser,
    build_denoiser,
    build_flow_scheduler,
    save_pipeline,
    start_from,
)
from factory.train.generator.settings import OptimisationSettings, TrainingRecipe
from factory.train.generator.setup import Material, prepare_material
from factory.train.generator.validation import Judge, save_sample_grid
from factory.train.loop import Loop, Report, Trainer, compute_warmup, open_folder
from factory.train.running import run_training

if TYPE_CHECKING:
    from factory.train.multi.settings import MultiRecipe


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
    return _GeneratorTrainer.open(recipe, catalogs, out).train(report)


class FlowTrainer(Trainer):
    """A training by flow matching: a subclass builds the network, and gives loss and judgement.

    Args:
        recipe: what to train on and how.
        material: what it is taught.
        accelerator: of this process.
        out: folder of the exported pipeline.

    Attributes:
        prepare: gives the material of a recipe, with catalogs and the folder of the training.
        document: writes catalog entry and model card of recipe, material and summary to a folder.
        betas: of AdamW.
        compiled: the part of the network that `training.compile` compiles.
        measure: what tells the best weights of a validation: the lowest.
    """

    max_norm = 1.0
    prepare: ClassVar[Callable[..., Any]]
    document: ClassVar[Callable[..., None]]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    compiled: ClassVar[str]
    measure: ClassVar[str]

    def __init__(
        self,
        recipe: "TrainingRecipe | MultiRecipe",
        material: Any,
        accelerator: Accelerator,
        out: Path,
    ) -> None:
        super().__init__()
        self._recipe, self._material, self._out = recipe, material, out
        self._accelerator, self._device = accelerator, accelerator.device
        options = recipe.training
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            self.network = self.build().to(self._device)
        self.steps, self.learning_rate = options.steps, options.learning_rate
        self.ema_decay, self.accumulate = options.ema_decay, options.accumulate
        self.validate_every = recipe.validation.every
        self.checkpoint_every = options.checkpoint_every
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            betas=self.betas,
            fused=True,
        )

    @classmethod
    def open(cls, recipe: "TrainingRecipe | MultiRecipe", catalogs: Catalogs, out: Path) -> Self:
        """Prepares a training; `out/training` is for checkpoint and log.

        Raises:
            FactoryError: material that cannot be prepared, or `out` holds something else.
        """
        accelerator = Accelerator(
            device_placement=False, gradient_accumulation_steps=recipe.training.accumulate
        )
        folder = open_folder(out)
        with accelerator.main_process_first():
            material = cls.prepare(recipe, catalogs, folder)
        return cls(recipe, material, accelerator, out)

    def build(self) -> torch.nn.Module:
        """Returns the network; the random numbers of torch are seeded by the recipe."""
        raise NotImplementedError

    def assemble(self, network: Any) -> Any:
        """Returns the pipeline of a network."""
        raise NotImplementedError

    def judge(self, average: Any, folder: Path, grid: Path) -> dict[str, float]:
        """Measures weights and what was exported of them, and draws samples to `grid`."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Returns what shapes the weights; what is still to come may change on resume."""
        described: dict[str, Any] = self._recipe.model_dump(mode="json")
        for name in ("steps", "decay_steps", "checkpoint_every", "compile", "reading_steps"):
            described["training"].pop(name)
        for section in ("validation", "sampling", "export", "init", "catalogs"):
            described.pop(section)
        return described | {"start": self._material.start_sha256}

    def train(self, report: Report) -> dict[str, Any] | None:
        """Trains, or resumes training; returns what it gave, None in all processes but the first.

        Raises:
            MismatchError: the checkpoint is of another recipe.
        """
        recipe, folder = self._recipe, self._out / "training"
        compiled = getattr(self.network, self.compiled) if recipe.training.compile else None
        loop = run_training(
            self, folder, recipe, self.describe(), report, self._accelerator, compiled
        )
        return self.finish(loop, report) if self._accelerator.is_main_process else None

    def teach(self, average: Any, unread: Path) -> tuple[Any, float]:
        """Returns the network of an exported pipeline, and how well its captions now read.

        Args:
            average: a network of the same shape, which stays as it is.
            unread: the pipeline's folder.
        """
        raise NotImplementedError

    def finish(self, loop: Loop, report: Report) -> dict[str, Any]:
        """Returns what the training gave, after it taught to read where it is asked for."""
        summary = self.summarise(loop.step)
        if self._recipe.training.reading_steps:
            measured = self.read(loop.average)
            loop.log(report, measured)
            summary |= measured
            self.document(self._recipe, self._material, summary, self._out)
        return summary

    def read(self, average: Any) -> dict[str, float]:
        """Teaches the best weights to read captions and exports them; they are kept as they were.

        Returns:
            `reading`, and what is measured of what is exported.
        """
        out = self._out
        folder = out / "training"
        unread = folder / f"unread-{self.state['best_step']:07d}"
        if not unread.exists():
            partial = folder / "unread.tmp"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(out, partial, ignore=shutil.ignore_patterns("training"))
            partial.rename(unread)
        network, explained = self.teach(average, unread)
        self.export(network, out)
        return {"reading": explained} | self.judge(network, out, out / "samples.png")

    def export(self, network: Any, folder: Path) -> None:
        """Writes weights as a float16 safetensors pipeline folder."""
        save_pipeline(self.assemble(deepcopy(network).cpu().half().eval()), folder)

    def compute_rate(self, step: int) -> float:
        """Returns the factor of the learning rate in a step."""
        return compute_rate(self._recipe.training, step)

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Measures the averaged weights, and exports them where they are the best so far."""
        folder = self._out / "training"
        grid = folder / f"samples-{step:07d}.png"
        average.eval()
        self.export(average, folder / "last")
        measured = self.judge(average, folder / "last", grid)
        best = self.state.get("best")
        if not best or not measured or measured[self.measure] < best[self.measure]:
            self.state = {"best": measured, "best_step": step}
            self.export(average, self._out)
            if grid.exists():
                shutil.copyfile(grid, self._out / "samples.png")
        self.document(self._recipe, self._material, self.summarise(step), self._out)
        return measured

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        return {"step": step, "best_step": self.state.get("best_step", 0), **best}


class _GeneratorTrainer(FlowTrainer):
    """Learns the velocity from noise to images (and the other way), by flow matching."""

    network: Denoiser
    _recipe: TrainingRecipe
    _material: Material
    prepare, document = staticmethod(prepare_material), staticmethod(write_documents)
    compiled, measure = "unet", "kid"

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._recipe, self._material, self._device)

    def build(self) -> Denoiser:
        """Returns a seeded network, or that of the model to go on from."""
        recipe, material = self._recipe, self._material
        names = material.images.class_names
        network = build_denoiser(
            recipe.network,
            recipe.data.image_size,
            len(names),
            material.tokenizer,
            material.latent,
        )
        if material.start is not None:
            start_from(network, names, material.start)
        return network

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
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

    def teach(self, average: Any, unread: Path) -> tuple[Any, float]:
        """Returns the network of an exported pipeline, and how well its captions read."""
        network = deepcopy(average)
        before = FlowPipeline.from_pretrained(unread, dtype=torch.float32)
        start_from(network, self._material.images.class_names, before)
        return network, teach_reading(self._recipe, self._material, network)

    def assemble(self, network: Denoiser) -> FlowPipeline:
        """Returns the pipeline of a network."""
        recipe, material = self._recipe, self._material
        return FlowPipeline(
            unet=network.unet,
            scheduler=build_flow_scheduler(recipe.sampling.scheduler),
            conditioner=network.conditioner,
            text_encoder=network.text_encoder,
            tokenizer=material.tokenizer,
            vae=material.vae,
            class_names=",".join(material.images.class_names),
            fold=recipe.network.fold if material.vae is None else 1,
            data_std=recipe.network.data_std,
            mpp=recipe.data.mpp,
        )


def compute_rate(options: OptimisationSettings, step: int) -> float:
    """Returns the learning-rate factor: warm-up, constant, then linear decay to 0."""
    left = options.steps - step
    fall = left / options.decay_steps if left < options.decay_steps else 1.0
    return min(compute_warmup(step, options.warmup_steps), fall)
