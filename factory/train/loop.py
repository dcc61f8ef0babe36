"""Checkpoint and log of a training: written with a rename, resumed only for the same recipe."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from factory.core.files.atomic import write_atomically
from factory.core.hashing import refuse_change
from factory.core.plain import write_json

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(slots=True)
class TrainingState(Generic[NetworkT]):
    """What a checkpoint holds: networks, optimiser, steps done, and the best validation so far."""

    network: NetworkT
    average: NetworkT
    optimizer: torch.optim.Optimizer
    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)


def resume(folder: Path, described: Mapping[str, Any], state: TrainingState[Any]) -> None:
    """Brings the state to that of the folder's checkpoint, if there is one.

    Args:
        folder: of the training.
        described: the fields of the recipe, and digests of data, that shape the weights.
        state: fresh; changed in place.

    Raises:
        MismatchError: the checkpoint is of another recipe; says what differs.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return
    saved = torch.load(path, weights_only=True)
    refuse_change(
        str(folder), "checkpoint of another recipe", json.loads(saved["recipe"]), described
    )
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.best, state.best_step = saved["step"], saved["best"], saved["best_step"]


def save(folder: Path, described: Mapping[str, Any], state: TrainingState[Any]) -> None:
    """Writes the checkpoint; arguments as in `resume`."""
    saved = {
        "recipe": json.dumps(described),
        "step": state.step,
        "best": state.best,
        "best_step": state.best_step,
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    with write_atomically(folder / "checkpoint.pt") as path:
        torch.save(saved, path)


def append_log(folder: Path, step: int, measured: Mapping[str, float]) -> None:
    """Appends a line of measurements to `log.jsonl`."""
    rounded = {name: round(value, 5) for name, value in measured.items()}
    line = write_json({"step": step, **rounded, "time": round(time.time(), 1)}, indent=None)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
