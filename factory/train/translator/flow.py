"""Trains a flow between the embeddings of two domains, and exports the best weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from factory.catalog.catalog import Catalogs
from factory.core.errors import InputError
from factory.data.patients import write_patients
from factory.models.encoders import explain_unknown, open_kind
from factory.models.encoders.kinds.folder import FolderKind
from factory.models.encoders.latent_flow import LatentFlow, transport
from factory.models.session import Session
from factory.train.loop import Report, open_folder
from factory.train.running import run_training
from factory.train.translator.export import export_flow
from factory.train.translator.pairs import Pairs, load_pairs
from factory.train.translator.settings import FlowRecipe
from factory.train.translator.trainer import PairTrainer, describe_shaping

JUDGED = 4096
"""Held-out embeddings at most that a validation moves."""


def train_flow(recipe: FlowRecipe, catalogs: Catalogs, out: Path, report: Report) -> dict[str, Any]:
    """Trains, or resumes training, and writes the flow to `out`.

    The weights exported are the running average's at the validation where held-out embeddings come
    nearest to their targets; without held-out pairs, the last.

    Args:
        recipe: what to learn from and how; its paths are resolved.
        catalogs: where the encoder is looked up.
        out: folder of the flow; `out/training` holds checkpoint and log.
        report: progress callback; a validation reports what `measure` returns.

    Returns:
        `step`, `best_step`, `pairs`, `held_out`, `passed`, and what was measured at `best_step`.

    Raises:
        SourceError: pairs that cannot be read, or too few.
        InputError: `out` holds something else, or the encoder cannot be had.
        MismatchError: `out` holds the checkpoint of another recipe.
        TrainingError: the loss is no number.
    """
    session, spec = Session(catalogs), recipe.data.encoder
    if catalogs.get_encoder(spec) is None and isinstance(open_kind(spec), FolderKind):
        raise InputError(f"data.encoder: {explain_unknown(spec, catalogs)} with an entry")
    folder = open_folder(out)
    pairs = load_pairs(recipe, session)
    trainer = _FlowTrainer(recipe, pairs, session, out)
    shaping = describe_shaping(recipe, pairs, "catalogs", "sampling_steps")
    loop = run_training(trainer, folder, recipe, shaping, report)
    return trainer.summarise(loop.step)


class _FlowTrainer(PairTrainer):
    """The velocity from source to target, at random times of the straight way between them."""

    network: LatentFlow

    def __init__(self, recipe: FlowRecipe, pairs: Pairs, session: Session, out: Path) -> None:
        self._recipe, self._pairs, self._session = recipe, pairs, session
        super().__init__(recipe, pairs, out)
        self._counted["dim"] = pairs.dim

    def build(self) -> LatentFlow:
        network = self._recipe.network
        return LatentFlow(self._pairs.dim, network.width, network.blocks)

    def compute_loss(self, network: Any, step: int, turn: int) -> Tensor:
        draw, rows = self.draw_rows(step, turn)
        source, target = self._read(rows)
        times = torch.from_numpy(draw.random(len(rows), np.float32)).to(self._device)
        between = times[:, None] * target + (1.0 - times[:, None]) * source
        return mse_loss(network(between, times), target - source)

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Moves held-out embeddings, and exports the weights that bring them nearest."""
        measured = self._measure(average)
        best = self.state.get("best")
        if best is None or not measured or measured["error"] < best["error"]:
            self.state = {"best": measured, "best_step": step}
            write_patients(self._pairs.patients, self._out)
            export_flow(self._recipe, average, self.summarise(step), self._session, self._out)
        return measured

    def _measure(self, network: Any) -> dict[str, float]:
        """Returns errors and cosines of held-out pairs: moved, left, and moved by the mean alone.

        The error is the mean squared distance to the target over that of the source to it.
        """
        pairs = self._pairs
        rows = np.flatnonzero(pairs.held_out)[:JUDGED]
        if not len(rows):
            return {}
        source, target = self._read(rows)
        known, there = self._read(self._rows)
        shifted = source + (there - known).mean(0)
        moved = transport(network, source, self._recipe.sampling_steps)
        floor = mse_loss(source, target).item() or 1.0
        found = {"": moved, "_shift": shifted, "_source": source}
        errors = {f"error{k}": mse_loss(v, target).item() / floor for k, v in found.items()}
        cosines = {
            f"cosine{k}": cosine_similarity(v, target).mean().item() for k, v in found.items()
        }
        return {**errors, **cosines}

    def _read(self, rows: Any) -> tuple[Tensor, Tensor]:
        source, target = (
            torch.from_numpy(each[rows]).to(self._device)
            for each in (self._pairs.source, self._pairs.target)
        )
        return source, target
