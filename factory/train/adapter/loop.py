"""What the loop of a few-shot adaptation takes: steps, and checks for copies that end it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from factory.core.hashing import derive_seed
from factory.train.adapter.settings import AdapterSettings
from factory.train.augment import jitter_stains, turn_images
from factory.train.copies import CopyCheck, CopyMeter
from factory.train.generator.objectives.base import CLASSLESS, Objective
from factory.train.loop import Loop, Trainer, compute_warmup

WARMUP_STEPS = 20
AVERAGE_DECAY = 0.99
"""Of the moving average of the weights, which is what is sampled, checked and exported."""

_PRIOR_SHARE = 4  # one prior image for so many shots in a batch: its loss is a mean of its own

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from: shots and prior images, (N, H, W, 3) uint8 RGB, and class names."""

    shots: NDArray[np.uint8]
    labels: tuple[str, ...]
    prior: NDArray[np.uint8]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(set(self.labels)))


@dataclass(frozen=True)
class Progress:
    """How far a training is; `good_step` is of the last check that passed."""

    step: int = 0
    is_stopped: bool = False
    good_step: int = 0
    checks: list[CopyCheck] = field(default_factory=list)


class AdapterTraining(Trainer):
    """Trains an adapter until its steps are done or its samples copy the shots.

    Args:
        objective: what is trained.
        settings: with nothing left open.
        material: what it learns from.
        meter: finds copies of the shots.
        folder: of checkpoint, log and samples; must exist.

    Raises:
        MismatchError: the folder's checkpoint is of an earlier version.
    """

    log_every = 10
    max_norm = 1.0
    ema_decay = AVERAGE_DECAY

    def __init__(
        self,
        objective: Objective,
        settings: AdapterSettings,
        material: Material,
        meter: CopyMeter,
        folder: Path,
    ) -> None:
        super().__init__()
        self._objective, self._settings, self._material = objective, settings, material
        self._meter, self._folder = meter, folder
        self.state = {"good_step": 0, "checks": []}
        self.learning_rate = settings.learning_rate or 0.0
        self.network = torch.nn.ParameterList(objective.parameters.values())
        self.kept = (deepcopy(self.network),)  # of the last check that passed
        rates = [objective.rates.get(name, 1.0) for name in objective.parameters]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [parameter], "rate": rate}
                for parameter, rate in zip(self.network, rates, strict=True)
            ],
            lr=self.learning_rate,
            weight_decay=0.0,
        )
        self.steps = settings.steps or 0
        self.validate_every = self.checkpoint_every = settings.check_every or 1
        self._loop = Loop(self, folder)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        checks = [CopyCheck(**each) for each in self.state["checks"]]
        return Progress(self._loop.step, self.is_stopped, self.state["good_step"], checks)

    def run(self, report: Report) -> Progress:
        """Trains what is left of the steps.

        Raises:
            GenerationError: sampling for a check failed; the same call resumes.
            TrainingError: the loss is no number.
        """

        def tell(step: int, steps: int, measured: dict[str, float]) -> None:
            if "copies" not in measured:
                report(f"step {step:,}/{steps:,}, loss {measured['loss']:.4f}")
                return
            report(
                f"step {step:,}: {measured['copies']:.0%} of {measured['images']} samples copy a "
                f"shot (similarity above {measured['threshold']:.2f}; highest "
                f"{measured['highest']:.2f})"
            )

        self._loop.run(tell)
        return self.progress

    def load_good(self) -> None:
        """Gives the objective the weights of the last check that passed."""
        _copy(self.kept[0], self.network)

    def compute_rate(self, step: int) -> float:
        """Returns the factor of the learning rate: a warm-up."""
        return compute_warmup(step, WARMUP_STEPS)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        """Returns the mean loss of shots, and that of prior images beside it."""
        settings = self._settings
        draw = torch.Generator().manual_seed(derive_seed(settings.seed, "step", step))
        pixels, conditions = draw_shots(self._material, settings, step, draw)
        loss = self._objective.compute_losses(pixels, conditions, draw).mean()
        if settings.prior_weight:
            pixels = draw_prior(self._material, settings, draw)
            held = self._objective.compute_losses(pixels, [CLASSLESS] * len(pixels), draw)
            loss = loss + settings.prior_weight * held.mean()
        return loss

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Samples every class with the averaged weights, and stops where they copy the shots."""
        settings, names = self._settings, self._material.class_names
        conditions = [name for name in names for _ in range(settings.check_images)]
        rows = range(len(conditions))
        seeds = [derive_seed(settings.seed, "check", step, row) for row in rows]
        live = deepcopy(self.network)
        _copy(average, self.network)
        samples = self._objective.sample(conditions, seeds)
        _copy(live, self.network)
        found = self._meter.check(samples, step, loss)
        save_grid(samples, len(names), self.path_samples(step))
        self.state["checks"].append(found.to_json())
        self.is_stopped = found.copies > settings.max_copies
        if not self.is_stopped:
            self.state["good_step"] = step
            _copy(average, self.kept[0])
        return found.to_json()

    def path_samples(self, step: int) -> Path:
        """Returns where the samples of a check are kept."""
        return self._folder / f"samples-{step:06d}.png"


def draw_shots(
    material: Material, settings: AdapterSettings, step: int, draw: torch.Generator
) -> tuple[torch.Tensor, list[str | None]]:
    """Draws the shots of one step, turned, flipped and jittered, and their conditions.

    Shots are walked epoch by epoch. Conditions are dropped at random to the null one.

    Returns:
        (B, 3, H, W) float in [-1, 1], and B class names or None.
    """
    size, total = settings.batch_size or 1, len(material.shots)
    positions = range(step * size, (step + 1) * size)
    order = {
        epoch: np.random.default_rng(derive_seed(settings.seed, "epoch", epoch)).permutation(total)
        for epoch in {position // total for position in positions}
    }
    rows = [int(order[position // total][position % total]) for position in positions]
    pixels = jitter_stains(_augment(material.shots[rows], draw), settings.stain_jitter, draw)
    dropped = torch.rand(size, generator=draw) < settings.dropout
    labels = [material.labels[row] for row in rows]
    return pixels, [None if drop else name for drop, name in zip(dropped, labels, strict=True)]


def draw_prior(
    material: Material, settings: AdapterSettings, draw: torch.Generator
) -> torch.Tensor:
    """Draws the prior images of one step: (B', 3, H, W) float in [-1, 1]."""
    size = max(1, (settings.batch_size or 1) // _PRIOR_SHARE)
    rows = torch.randint(0, len(material.prior), (size,), generator=draw)
    return _augment(material.prior[rows.numpy()], draw)


def _augment(images: NDArray[np.uint8], draw: torch.Generator) -> torch.Tensor:
    """Turns and flips (B, H, W, 3) uint8 at random; images that are not square are flipped only."""
    pixels = to_tensor(images)
    turns = torch.randint(0, 8, (len(pixels),), generator=draw)
    if pixels.shape[2] != pixels.shape[3]:
        turns = turns // 2 * 2  # half turns and flips keep the shape
    return turn_images(pixels, turns)


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Returns (N, H, W, 3) uint8 RGB as (N, 3, H, W) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def save_grid(images: NDArray[np.uint8], rows: int, path: Path) -> None:
    """Saves (rows x columns, H, W, 3) uint8 images as one PNG, in the order given."""
    count, height, width, _ = images.shape
    table = images.reshape(rows, count // rows, height, width, 3)
    Image.fromarray(np.concatenate(np.concatenate(table, axis=1), axis=1)).save(path)


@torch.no_grad()
def _copy(source: torch.nn.Module, target: torch.nn.Module) -> None:
    for theirs, mine in zip(source.parameters(), target.parameters(), strict=True):
        mine.copy_(theirs)
