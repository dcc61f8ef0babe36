"""Trains an image encoder on real patches without labels, and exports the best weights."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from factory.core.errors import SourceError, TrainingError
from factory.core.hashing import derive_seed
from factory.train.ahead import Ahead
from factory.train.encoder.export import export_encoder
from factory.train.encoder.losses import Learner, compute_loss, measure_rank, measure_spread
from factory.train.encoder.settings import EncoderOptimisation, EncoderRecipe
from factory.train.encoder.teacher import read_targets
from factory.train.encoder.views import draw_pair, view_rows
from factory.train.images import TrainingImages, load_training_images
from factory.train.loop import Report, Trainer, compute_warmup, open_folder
from factory.train.running import run_training, take_options

JUDGED = 1024
"""Images at most that a validation looks at."""


def train_self_supervised(recipe: EncoderRecipe, out: Path, report: Report) -> dict[str, Any]:
    """Trains, or resumes training, and writes the encoder to `out`.

    The weights exported are the running average's at the validation with the lowest loss on
    held-out images; without held-out images, the last. No label is read.

    Args:
        recipe: what to learn from and how; its paths are resolved.
        out: folder of the encoder; `out/training` holds checkpoint and log.
        report: progress callback; a validation reports what `_measure` returns.

    Returns:
        `step`, `best_step`, and what was measured at the latter: `held_out_loss` (where images are
        held out), `feature_spread`, `embedding_spread`, `feature_rank`.

    Raises:
        SourceError: images that cannot be read, or a source without an image to learn from.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
        TrainingError: the embeddings or features of different images have become alike, or the
            loss is no number.
    """
    folder = open_folder(out)
    images = load_training_images(recipe.data, None, recipe.seed, folder / "images")
    _check_sources(recipe, images)
    targets = read_targets(recipe, images, folder / "teacher")
    trainer = _EncoderTrainer(recipe, images, out, targets)
    compiled = trainer.network.encoder if recipe.training.compile else None
    described = _describe(recipe, images)
    loop = run_training(trainer, folder, recipe, described, report, compiled=compiled)
    return {"step": loop.step, "best_step": trainer.state["best_step"], **trainer.state["best"]}


def _check_sources(recipe: EncoderRecipe, images: TrainingImages) -> None:
    for number, source in enumerate(recipe.data.sources):
        if not ((images.sources == number) & ~images.held_out).any():
            raise SourceError(
                f"{source.images}: no image is left to learn from: add images, or lower "
                "data.held_out"
            )


class _EncoderTrainer(Trainer):
    """Two views of an image are to have like vectors, other images others."""

    network: Learner
    max_norm = 10.0

    def __init__(
        self,
        recipe: EncoderRecipe,
        images: TrainingImages,
        out: Path,
        targets: Tensor | None,
    ) -> None:
        super().__init__()
        self._recipe, self._images, self._out = recipe, images, out
        self._targets = targets
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            network = Learner(recipe, 0 if targets is None else targets.shape[1])
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        take_options(self, network, recipe.training)
        self._ahead = Ahead(self._draw, self.accumulate, self._device)

    def _draw(self, step: int, turn: int) -> tuple[NDArray[np.int64], tuple[Tensor, Tensor]]:
        return draw_pair(self._recipe, self._images, step, self._device)

    def compute_rate(self, step: int) -> float:
        return compute_rate(self._recipe.training, step)

    def compute_loss(self, network: Any, step: int, turn: int) -> Tensor:
        rows, pair = self._ahead.take(step, turn)
        targets = None if self._targets is None else self._targets[rows]
        return _compute(self._recipe, network, pair, self._device, targets)[0]

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Measures the averaged weights, stops a collapsed training, exports the best so far."""
        measured = _measure(self._recipe, self._images, average, self._device, self._targets)
        check_collapse(self._recipe, measured, step)
        held_out, best = measured.get("held_out_loss"), self.state.get("best")
        if best is None or held_out is None or held_out < best["held_out_loss"]:
            self.state = {"best": measured, "best_step": step}
            result = {"step": step, "best_step": step, **measured}
            export_encoder(self._recipe, self._images, average.encoder, result, self._out)
        return measured


def _compute(
    recipe: EncoderRecipe,
    network: Learner,
    pair: tuple[Tensor, Tensor],
    device: torch.device,
    targets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns loss, (2 N, F) features and (2 N, D) embeddings; both views share a batch norm.

    `targets` are the (N, T) features that the recipe's teacher has of the images.
    """
    batch = torch.cat(pair).to(device, memory_format=torch.channels_last)
    dtype = getattr(torch, recipe.training.precision)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        features, embedding, foretold = network(batch)
    first, second = embedding.chunk(2)
    loss = compute_loss(first, second, recipe.method)
    if recipe.teacher is not None and targets is not None:
        wanted = torch.cat([targets, targets]).to(device)
        loss = loss + recipe.teacher.weight * mse_loss(foretold, wanted)
    return loss, features, embedding


def compute_rate(options: EncoderOptimisation, step: int) -> float:
    """Returns the learning-rate factor: a linear warm-up under a cosine from 1 to 0."""
    rise = compute_warmup(step, options.warmup_steps)
    return rise * (1 + math.cos(math.pi * step / options.steps)) / 2


def check_collapse(recipe: EncoderRecipe, measured: dict[str, float], step: int) -> None:
    """Stops a training whose vectors of different images have become alike.

    Raises:
        TrainingError: says which settings to change.
    """
    least = recipe.training.min_spread
    for name in ("embedding_spread", "feature_spread"):
        if not measured[name] >= least:  # NaN too
            if recipe.method.kind == "vicreg":
                do = "raise method.variance or method.covariance"
            else:
                do = "raise training.batch_size or method.temperature"
            raise TrainingError(
                f"step {step}: collapsed, {name} is {measured[name]:.3g}, training.min_spread is "
                f"{least}: different images have almost the same vector: {do}, lower "
                "training.learning_rate, or check that the images differ"
            )


@torch.no_grad()
def _measure(
    recipe: EncoderRecipe,
    images: TrainingImages,
    network: Learner,
    device: torch.device,
    targets: Tensor | None,
) -> dict[str, float]:
    """Returns loss, spreads and rank on held-out images, each batch as large as in training.

    Without held-out images the spreads and the rank are of images to learn from.
    """
    rows = np.flatnonzero(images.held_out)
    judged = len(rows) > 1
    rows = rows if judged else np.arange(len(images.labels))
    order = np.random.default_rng(derive_seed(recipe.seed, "validation")).permutation(rows)[:JUDGED]
    size = min(recipe.training.batch_size, len(order))
    losses, features, embeddings = [], [], []
    for number in range(len(order) // size):
        seed = derive_seed(recipe.seed, "validation-views", number)
        chosen: NDArray[np.int64] = np.sort(order[number * size : (number + 1) * size])
        pair = view_rows(recipe, images, chosen, seed, device)
        taught = None if targets is None else targets[chosen]
        loss, found, embedding = _compute(recipe, network, pair, device, taught)
        losses.append(loss.item())
        features.append(found[:size].cpu())  # one view of each
        embeddings.append(embedding[:size].cpu())
    held_out = {"held_out_loss": float(np.mean(losses))} if judged else {}
    stacked = torch.cat(features)
    return held_out | {
        "embedding_spread": measure_spread(torch.cat(embeddings)),
        "feature_spread": measure_spread(stacked),
        "feature_rank": measure_rank(stacked),
    }


def _describe(recipe: EncoderRecipe, images: TrainingImages) -> dict[str, Any]:
    """The fields that shape the weights; the length shapes the learning rate, so it is one."""
    left_out: Any = {
        "data": {"sources": {"__all__": {"images"}}},
        "training": {"validate_every", "checkpoint_every", "compile", "min_spread"},
        "export": True,
    }
    described = recipe.model_dump(mode="json", exclude=left_out)
    if recipe.network.readout == "last":  # as trainings begun before there was another one say
        described["network"].pop("readout")
    if recipe.teacher is None:
        described.pop("teacher")
    return described | {"images": images.digest}
