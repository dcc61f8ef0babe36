"""`FlowTrainer`: what trainings of generators by flow matching share, and what they leave."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import torch
from accelerate import Accelerator

from factory.catalog.catalog import Catalogs
from factory.core.hashing import derive_seed
from factory.data.patients import write_patients
from factory.train.generator.export import save_card, save_entry
from factory.train.generator.network import build_flow_scheduler, save_pipeline
from factory.train.generator.settings import OptimisationSettings, TrainingRecipe
from factory.train.generator.setup import FlowMaterial
from factory.train.loop import Loop, Report, Trainer, compute_warmup, open_folder
from factory.train.running import run_training

if TYPE_CHECKING:
    from factory.train.multi.settings import MultiRecipe


RecipeT = TypeVar("RecipeT", bound="TrainingRecipe | MultiRecipe")
MaterialT = TypeVar("MaterialT", bound=FlowMaterial)


class FlowTrainer(Trainer, Generic[RecipeT, MaterialT]):
    """A training by flow matching: a subclass builds the network, and gives loss and judgement.

    What is trained goes on from the pipeline of the material, if there is one. With the weights go
    catalog entry, patients and model card.

    Args:
        recipe: what to train on and how.
        material: what it is taught.
        accelerator: of this process.
        out: folder of the exported pipeline.

    Attributes:
        prepare: gives the material of a recipe, with catalogs and the folder of the training.
        enter: gives the catalog entry, by recipe and material.
        tell: gives the lines of the model card, by recipe, material and summary.
        pipeline: class of what is exported.
        betas: of AdamW.
        compiled: the part of the network that `training.compile` compiles.
        measure: what tells the best weights of a validation: the lowest.
    """

    max_norm = 1.0
    prepare: ClassVar[Callable[..., Any]]
    enter: ClassVar[Callable[..., dict[str, Any]]]
    tell: ClassVar[Callable[..., list[str]]]
    pipeline: ClassVar[Any]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    compiled: ClassVar[str]
    measure: ClassVar[str]

    def __init__(
        self,
        recipe: RecipeT,
        material: MaterialT,
        accelerator: Accelerator,
        out: Path,
    ) -> None:
        super().__init__()
        self._recipe, self._material, self._out = recipe, material, out
        self._accelerator, self._device = accelerator, accelerator.device
        options = recipe.training
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            network = self.build()
            if material.start is not None:
                self.start(network, material.start)
            self.network = network.to(self._device)
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
    def open(cls, recipe: RecipeT, catalogs: Catalogs, out: Path) -> Self:
        """Prepares a training.

        Args:
            recipe: what to train on and how; its paths are resolved.
            catalogs: where caption grid, classes, encoder and the model to go on from are.
            out: folder of the exported pipeline; `out/training` is for checkpoint, log and samples.

        Raises:
            SourceError: an image, mask or table that cannot be read or does not fit.
            InputError: a grid, class list, encoder or model that there is not, or that does not
                fit; or `out` holds something else.
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

    def start(self, network: Any, pipeline: Any) -> None:
        """Copies the weights of a pipeline into a network, as far as they mean the same."""
        raise NotImplementedError

    def compose(self, network: Any) -> dict[str, Any]:
        """Returns what only this pipeline of a network is made of: parts, and numbers."""
        raise NotImplementedError

    def assemble(self, network: Any) -> Any:
        """Returns the pipeline of a network."""
        recipe, material = self._recipe, self._material
        return self.pipeline(
            scheduler=build_flow_scheduler(recipe.sampling.scheduler),
            text_encoder=network.text_encoder,
            tokenizer=material.tokenizer,
            class_names=",".join(material.class_names),
            data_std=recipe.network.data_std,
            **self.compose(network),
        )

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
        """Trains, or resumes training, and writes the pipeline.

        Args:
            report: progress callback; a validation reports what `judge` measures.

        Returns:
            `step`, `best_step`, and of the latter what was measured; None in all processes but the
            first.

        Raises:
            MismatchError: the checkpoint is of another recipe.
        """
        recipe, folder = self._recipe, self._out / "training"
        compiled = getattr(self.network, self.compiled) if recipe.training.compile else None
        loop = run_training(
            self, folder, recipe, self.describe(), report, self._accelerator, compiled
        )
        return self.finish(loop, report) if self._accelerator.is_main_process else None

    def teach(self, network: Any) -> float:
        """Teaches a network to read captions; returns how well it does."""
        raise NotImplementedError

    def finish(self, loop: Loop, report: Report) -> dict[str, Any]:
        """Returns what the training gave, after it taught to read where it is asked for."""
        summary = self.summarise(loop.step)
        if self._recipe.training.reading_steps:
            measured = self.read(loop.average)
            loop.log(report, measured)
            summary |= measured
            self.document(summary)
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
        network = deepcopy(average)
        self.start(network, self.pipeline.from_pretrained(unread, dtype=torch.float32))
        explained = self.teach(network)
        self.export(network, out)
        return {"reading": explained} | self.judge(network, out, out / "samples.png")

    def export(self, network: Any, folder: Path) -> None:
        """Writes weights as a float16 safetensors pipeline folder."""
        save_pipeline(self.assemble(deepcopy(network).cpu().half().eval()), folder)

    def document(self, summary: dict[str, Any]) -> None:
        """Writes catalog entry, patients and model card (`README.md`) of what the training gave."""
        recipe, material, out = self._recipe, self._material, self._out
        write_patients(material.patients, out)
        save_entry(type(self).enter(recipe, material), out)
        save_card(recipe, type(self).tell(recipe, material, summary), out)

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
        self.document(self.summarise(step))
        return measured

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        return {"step": step, "best_step": self.state.get("best_step", 0), **best}


def compute_rate(options: OptimisationSettings, step: int) -> float:
    """Returns the learning-rate factor: warm-up, constant, then linear decay to 0."""
    left = options.steps - step
    fall = left / options.decay_steps if left < options.decay_steps else 1.0
    return min(compute_warmup(step, options.warmup_steps), fall)
