"""A training from its recipe to its end: the loop, and the recipe beside its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import BaseModel
from torch import nn

from factory.train.loop import Loop, Report, Trainer


def take_options(trainer: Trainer, network: nn.Module, options: Any) -> None:
    """Gives a trainer its network, and AdamW and the intervals as a recipe names them."""
    trainer.network, trainer.learning_rate = network, options.learning_rate
    trainer.steps, trainer.ema_decay = options.steps, options.ema_decay
    trainer.validate_every = options.validate_every
    trainer.checkpoint_every = options.checkpoint_every
    trainer.optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )


def run_training(
    trainer: Trainer,
    folder: Path,
    recipe: BaseModel,
    described: Mapping[str, Any],
    report: Report,
    accelerator: Accelerator | None = None,
    compiled: nn.Module | None = None,
) -> Loop:
    """Trains, or resumes training, and leaves the recipe in the folder; returns the loop.

    Args:
        trainer: what is trained.
        folder: of checkpoint and log, which must exist.
        recipe: all that was asked for.
        described: what of it, and digests of data, shape the weights.
        report: progress callback.
        accelerator: of this process, if one was needed before.
        compiled: part of the network that torch is to compile.

    Raises:
        MismatchError: the folder's checkpoint is of another recipe or an earlier version.
        TrainingError: the loss is no number.
        StoreError: disk full, permission.
    """
    loop = Loop(trainer, folder, described, accelerator)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    if compiled is not None:
        compiled.compile()
    loop.run(report)
    return loop
