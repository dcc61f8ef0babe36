"""The one loop of all that is trained: steps, averages, a log, and checkpoints that survive a kill.

Every random draw is keyed by (seed, step), and a checkpoint counts once it is whole, so a killed
training resumes to the same weights on the same machine with the same number of threads.
"""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from torch.nn.utils import clip_grad_norm_

from factory.core.errors import MismatchError, StoreError, TrainingError
from factory.core.files.atomic import sync, write_file
from factory.core.files.new_folder import refuse_foreign
from factory.core.hashing import refuse_change
from factory.core.plain import write_json

Report = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, measurements: the mean `loss`, or what a validation found)."""
_FORMAT = 1
_RECORD = "training.json"
"""What a checkpoint holds beside accelerate's files."""


class Trainer:
    """What a training gives the loop: network, optimiser, loss, validation.

    Attributes:
        network: what learns, on its device.
        optimizer: of its parameters; a group's `rate` multiplies the learning rate.
        learning_rate: where `compute_rate` is 1.
        steps: of the training; the intervals `log_every`, `validate_every` and `checkpoint_every`
            are in steps too.
        accumulate: passes whose gradients make one step.
        max_norm: gradients are clipped to it, if it is given.
        ema_decay: of the running average of the weights, if there is to be one.
        state: what else a checkpoint keeps; plain data.
        kept: further weights that a checkpoint keeps.
        is_stopped: set by a validation that ends the training early.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: float
    steps: int
    log_every = 50
    validate_every: int
    checkpoint_every: int
    accumulate = 1
    max_norm: float | None = None
    ema_decay: float | None = None
    kept: tuple[nn.Module, ...] = ()
    is_stopped = False

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def compute_rate(self, step: int) -> float:
        """Returns the factor of the learning rate in a step (0 is the first)."""
        raise NotImplementedError

    def set_rate(self, step: int) -> None:
        """Gives the optimiser the learning rate of a step."""
        rate = self.learning_rate * self.compute_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)

    def compute_loss(self, network: Any, step: int, turn: int) -> torch.Tensor:
        """Returns the loss of one pass; `network` is the trainer's, as accelerate wraps it."""
        raise NotImplementedError

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Measures the averaged weights after `step` steps, and exports them if they are good.

        Args:
            average: the running average of `network`, or `network` itself.
            step: steps done.
            loss: mean since the last validation.
        """
        return {}


class Loop:
    """Trains, or resumes training.

    Args:
        trainer: what is trained.
        folder: of checkpoint and log, which must exist; None keeps neither.
        described: the fields of the recipe, and digests of data, that shape the weights.
        accelerator: of this process, if one was needed before.

    Raises:
        MismatchError: the folder's checkpoint is of another recipe or an earlier version.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path | None = None,
        described: Mapping[str, Any] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.step = 0
        self._trainer, self._folder = trainer, folder
        self._described = json.loads(json.dumps(described or {}))
        self._losses: list[float] = []
        self._accelerator = accelerator or Accelerator(
            device_placement=False, gradient_accumulation_steps=trainer.accumulate
        )
        place = self._accelerator.prepare_model
        self._network = place(trainer.network, device_placement=False)
        self._accelerator.prepare_optimizer(trainer.optimizer, False)  # for checkpoints
        self.average = trainer.network
        if trainer.ema_decay is not None:
            self.average = deepcopy(trainer.network).requires_grad_(False).eval()
            place(self.average, device_placement=False, evaluation_mode=True)
        for each in trainer.kept:
            place(each, device_placement=False, evaluation_mode=True)
        self._accelerator.register_save_state_pre_hook(self._unwrap_saved)
        self._accelerator.register_load_state_pre_hook(self._unwrap_loaded)
        self._resume()

    def run(self, report: Report) -> None:
        """Does what is left of the steps; Ctrl-C ends it after the step, with a checkpoint.

        Raises:
            TrainingError: the loss is no number.
            StoreError: disk full, permission.
            KeyboardInterrupt: it was stopped; the same training resumes.
        """
        trainer = self._trainer
        with self._hold_signals() as caught:
            while self.step < trainer.steps and not trainer.is_stopped:
                self._losses.append(self._take_step())
                self.step += 1
                if self._accelerator.is_main_process:
                    self._look(report)
                    if caught or self._is_due(trainer.checkpoint_every) or trainer.is_stopped:
                        self._save()
                if caught:
                    raise KeyboardInterrupt

    def log(self, report: Report, measured: Mapping[str, float]) -> None:
        """Appends measurements to `log.jsonl`, and reports them."""
        if self._folder is not None:
            rounded = {
                name: round(value, 5) if isinstance(value, float) else value
                for name, value in measured.items()
            }
            values = {"step": self.step, **rounded, "time": round(time.time(), 1)}
            with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(write_json(values, indent=None) + "\n")
        report(self.step, self._trainer.steps, dict(measured))

    def _look(self, report: Report) -> None:
        """Logs the loss, and validates, where either is due."""
        trainer = self._trainer
        if self._is_due(trainer.log_every):
            self.log(report, {"loss": self._average_loss(trainer.log_every)})
        if self._is_due(trainer.validate_every):
            loss = self._average_loss(trainer.validate_every)
            measured = trainer.validate(self.average, self.step, loss)
            if measured:
                self.log(report, measured)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self._trainer.steps

    def _average_loss(self, every: int) -> float:
        """Returns the mean loss of the steps since the last multiple of `every`."""
        return float(np.mean(self._losses[-(self.step % every or every) :]))

    def _take_step(self) -> float:
        """One optimizer step; returns the mean loss of this process."""
        trainer, accelerator = self._trainer, self._accelerator
        trainer.set_rate(self.step)
        self._network.train()
        total = 0.0
        for turn in range(trainer.accumulate):
            with accelerator.accumulate(self._network):
                loss = trainer.compute_loss(self._network, self.step, turn)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"step {self.step}: the loss is {loss.item()}: lower the learning rate, or "
                        "train in float32"
                    )
                accelerator.backward(loss)
                if accelerator.sync_gradients:  # by hand: accelerate looks up packages in each step
                    if trainer.max_norm is not None:
                        clip_grad_norm_(trainer.network.parameters(), trainer.max_norm)
                    trainer.optimizer.step()
                    trainer.optimizer.zero_grad(set_to_none=True)
            total += loss.item()
        if trainer.ema_decay is not None:
            update_average(self.average, trainer.network, trainer.ema_decay, self.step + 1)
        return total / trainer.accumulate

    @contextmanager
    def _hold_signals(self) -> Iterator[list[int]]:
        """Yields what Ctrl-C or SIGTERM is noted in; a second one ends the process at once."""
        caught: list[int] = []
        is_alone = self._accelerator.num_processes == 1  # others would wait for one that stops
        if not is_alone or threading.current_thread() is not threading.main_thread():
            yield caught
            return

        def note(number: int, frame: FrameType | None) -> None:
            if caught:
                raise KeyboardInterrupt
            caught.append(number)

        before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield caught
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    # --- checkpoints ------------------------------------------------------------------------------

    def _save(self) -> None:
        """Writes a checkpoint beside the last one, gives it its name, and removes the last.

        Raises:
            StoreError: disk full, permission; the last one stays.
        """
        folder = self._folder
        if folder is None:
            return
        self._losses = self._losses[-max(self._trainer.log_every, self._trainer.validate_every) :]
        record = {
            "format": _FORMAT,
            "recipe": self._described,
            "step": self.step,
            "is_stopped": self._trainer.is_stopped,
            "losses": self._losses,
            "state": self._trainer.state,
        }
        build, found = folder / "unfinished", _list_checkpoints(folder)
        shutil.rmtree(build, ignore_errors=True)
        try:
            self._accelerator.save_state(str(build))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise StoreError(
                f"{build}: no checkpoint of step {self.step} can be written ({error}): free space "
                "there; the same training goes on from the checkpoint before"
            ) from error
        write_file(build / _RECORD, write_json(record).encode())
        for path in build.iterdir():
            sync(path)
        build.rename(folder / f"checkpoint-{self.step:08d}")
        sync(folder)
        for path in found:
            shutil.rmtree(path)

    def _resume(self) -> None:
        folder, trainer = self._folder, self._trainer
        if folder is None:
            return
        found = _list_checkpoints(folder)
        if not found and (folder / "checkpoint.pt").exists():
            raise MismatchError(
                f"{folder}/checkpoint.pt: of an earlier version, and this one does not go on with "
                "it: finish the training with that version, or begin anew in another --out"
            )
        if found:
            record = json.loads((found[-1] / _RECORD).read_bytes())
            where = "checkpoint of another recipe"
            refuse_change(str(folder), where, record["recipe"], self._described)
            self._accelerator.load_state(str(found[-1]))
            self.step, self._losses = record["step"], record["losses"]
            trainer.state, trainer.is_stopped = record["state"], record["is_stopped"]
        if self._accelerator.is_main_process:
            _cut_log(folder / "log.jsonl", self.step)

    def _unwrap_saved(self, models: list[Any], weights: list[Any], folder: str) -> None:
        """Keeps weights by their own names, so that any number of processes may go on."""
        weights[:] = [self._accelerator.unwrap_model(each).state_dict() for each in models]

    def _unwrap_loaded(self, models: list[Any], folder: str) -> None:
        models[:] = [self._accelerator.unwrap_model(each) for each in models]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves the exponential moving average, with the warm-up (1 + n) / (10 + n).

    The statistics of batch norms move with the weights that they belong to.
    """
    keep = min(decay, (1 + step) / (10 + step))
    pairs = zip(
        [*average.parameters(), *average.buffers()],
        [*network.parameters(), *network.buffers()],
        strict=True,
    )
    moving = []
    for mine, theirs in pairs:
        if mine.is_floating_point():
            moving.append((mine, theirs))
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_([mine for mine, _ in moving], [each for _, each in moving], 1.0 - keep)


def open_folder(out: Path) -> Path:
    """Returns `out/training`, made where it is not there.

    Raises:
        InputError: `out` holds something else.
    """
    folder = out / "training"
    if not folder.is_dir():
        refuse_foreign(out, "training")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compute_warmup(step: int, steps: int) -> float:
    """Returns the factor of a linear warm-up over so many steps."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def _list_checkpoints(folder: Path) -> list[Path]:
    """Returns a folder's checkpoints; the last is whole, as they are named once they are."""
    return sorted(folder.glob("checkpoint-*"))


def _cut_log(path: Path, step: int) -> None:
    """Removes what was logged after the checkpoint, which is done again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = (line for line in lines if line.endswith("}\n"))
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_file(path, "".join(kept).encode())
