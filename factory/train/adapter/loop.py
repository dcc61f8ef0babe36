"""The loop of a few-shot adaptation: steps, checks for copies, and a state that survives a kill.

Every random draw is keyed by (seed, step), and the state is replaced by a rename, so a killed
training resumes to the same weights on the same machine with the same number of threads.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from factory.core.files.atomic import write_atomically, write_file
from factory.core.hashing import derive_seed
from factory.core.plain import write_json
from factory.train.adapter.settings import AdapterSettings
from factory.train.augment import jitter_stains, turn_images
from factory.train.copies import CopyCheck, CopyMeter
from factory.train.generator.objectives.base import CLASSLESS, Trainee, Weights

WARMUP_STEPS = 20
AVERAGE_DECAY = 0.99
"""Of the moving average of the weights, which is what is sampled, checked and exported."""

_LOG_EVERY = 10
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


@dataclass
class Progress:
    """How far a training is; `good` are the weights of the last check that passed."""

    step: int = 0
    is_stopped: bool = False
    good_step: int = 0
    good: Weights = field(default_factory=dict)
    checks: list[CopyCheck] = field(default_factory=list)


class AdapterTraining:
    """Trains an adapter until its steps are done or its samples copy the shots.

    Args:
        trainee: what is trained.
        settings: with nothing left open.
        material: what it learns from.
        meter: finds copies of the shots.
        folder: of checkpoint, log and samples; must exist.
    """

    def __init__(
        self,
        trainee: Trainee,
        settings: AdapterSettings,
        material: Material,
        meter: CopyMeter,
        folder: Path,
    ) -> None:
        self.progress = Progress()
        self._trainee = trainee
        self._settings = settings
        self._material = material
        self._meter = meter
        self._folder = folder
        self._parameters = dict(trainee.parameters)
        self._average = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [parameter], "rate": trainee.rates.get(name, 1.0)}
                for name, parameter in self._parameters.items()
            ],
            lr=settings.learning_rate or 0.0,
            weight_decay=0.0,
        )
        self._losses: list[float] = []
        self._resume()

    def run(self, report: Report) -> Progress:
        """Trains what is left of the steps.

        Raises:
            GenerationError: sampling for a check failed; the same call resumes.
        """
        progress, settings = self.progress, self._settings
        steps, every = settings.steps or 0, settings.check_every or 1
        while progress.step < steps and not progress.is_stopped:
            self._losses.append(self._step(progress.step))
            progress.step += 1
            if progress.step % _LOG_EVERY == 0 or progress.step == steps:
                recent = float(np.mean(self._losses[-_LOG_EVERY:]))
                self._log({"step": progress.step, "loss": round(recent, 5)})
                report(f"step {progress.step:,}/{steps:,}, loss {recent:.4f}")
            if progress.step % every == 0 or progress.step == steps:
                self._check(report)
                self._save()
        return progress

    def load_good(self) -> None:
        """Gives the trainee the weights of the last check that passed."""
        _copy(self.progress.good, self._parameters)

    def _step(self, step: int) -> float:
        settings = self._settings
        rate = (settings.learning_rate or 0.0) * min(1.0, (step + 1) / WARMUP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        draw = torch.Generator().manual_seed(derive_seed(settings.seed, "step", step))
        pixels, conditions = draw_shots(self._material, settings, step, draw)
        loss = self._trainee.compute_losses(pixels, conditions, draw).mean()
        if settings.prior_weight:
            pixels = draw_prior(self._material, settings, draw)
            held = self._trainee.compute_losses(pixels, [CLASSLESS] * len(pixels), draw)
            loss = loss + settings.prior_weight * held.mean()
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._optimizer.step()
        keep = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._average[name].lerp_(parameter, 1.0 - keep)
        return loss.item()

    def _check(self, report: Report) -> None:
        """Samples every class with the averaged weights, and stops where they copy the shots."""
        progress, settings = self.progress, self._settings
        names = self._material.class_names
        conditions = [name for name in names for _ in range(settings.check_images)]
        seeds = [
            derive_seed(settings.seed, "check", progress.step, row)
            for row in range(len(conditions))
        ]
        live = {name: value.detach().clone() for name, value in self._parameters.items()}
        _copy(self._average, self._parameters)
        samples = self._trainee.sample(conditions, seeds)
        _copy(live, self._parameters)
        loss = float(np.mean(self._losses)) if self._losses else float("nan")
        self._losses.clear()
        found = self._meter.check(samples, progress.step, loss)
        progress.checks.append(found)
        self._log(found.to_json())
        save_grid(samples, len(names), self.path_samples(progress.step))
        report(
            f"step {found.step:,}: {found.copies:.0%} of {found.images} samples copy a shot "
            f"(similarity above {found.threshold:.2f}; highest {found.highest:.2f})"
        )
        if found.copies > settings.max_copies:
            progress.is_stopped = True
        else:
            progress.good_step = progress.step
            progress.good = {name: value.clone() for name, value in self._average.items()}

    def path_samples(self, step: int) -> Path:
        """Returns where the samples of a check are kept."""
        return self._folder / f"samples-{step:06d}.png"

    def _log(self, line: dict[str, Any]) -> None:
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(write_json(line, indent=None) + "\n")

    def _save(self) -> None:
        progress = self.progress
        state = {
            "step": progress.step,
            "is_stopped": progress.is_stopped,
            "good_step": progress.good_step,
            "good": progress.good,
            "checks": json.dumps([check.to_json() for check in progress.checks]),
            "weights": {name: value.detach() for name, value in self._parameters.items()},
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        with write_atomically(self._folder / "checkpoint.pt") as path:
            torch.save(state, path)

    def _resume(self) -> None:
        path = self._folder / "checkpoint.pt"
        done = 0
        if path.is_file():
            state = torch.load(path, weights_only=True, map_location="cpu")
            done = int(state["step"])
            _copy(state["weights"], self._parameters)
            _copy(state["average"], self._average)
            self._optimizer.load_state_dict(state["optimizer"])
            checks = [CopyCheck(**each) for each in json.loads(state["checks"])]
            good = {name: value.to(self._average[name]) for name, value in state["good"].items()}
            self.progress = Progress(
                done, bool(state["is_stopped"]), int(state["good_step"]), good, checks
            )
        log = self._folder / "log.jsonl"
        if log.is_file():  # what was done after the checkpoint is done again
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("}\n"))
            kept = [line for line in whole if json.loads(line)["step"] <= done]
            write_file(log, "".join(kept).encode())


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


def _copy(source: Weights, target: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])
