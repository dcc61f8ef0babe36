"""Trains an image encoder on real patches without labels, and exports the best weights.

Every random draw is keyed by (seed, step), and the state is checkpointed with a rename, so a killed
run resumes to the same weights on the same machine with the same number of threads.
"""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factory.core.errors import SourceError, TrainingError
from factory.core.files.new_folder import refuse_foreign
from factory.core.hashing import derive_seed
from factory.train.encoder.export import export_encoder
from factory.train.encoder.losses import Learner, compute_loss, measure_rank, measure_spread
from factory.train.encoder.settings import EncoderOptimisation, EncoderRecipe
from factory.train.encoder.views import draw_pair, view_rows
from factory.train.images import TrainingImages, load_training_images
from factory.train.loop import TrainingState, append_log, resume, save

Report = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, measurements: `loss`, or after a validation those of `_measure`)."""

LOG_EVERY = 50  # steps
JUDGED = 1024
"""Images at most that a validation looks at."""


_State = TrainingState[Learner]


def train_self_supervised(recipe: EncoderRecipe, out: Path, report: Report) -> dict[str, Any]:
    """Trains, or resumes training, and writes the encoder to `out`.

    The weights exported are the running average's at the validation with the lowest loss on
    held-out images; without held-out images, the last. No label is read.

    Args:
        recipe: what to learn from and how; its paths are resolved.
        out: folder of the encoder; `out/training` holds checkpoint and log.
        report: progress callback.

    Returns:
        `step`, `best_step`, and what was measured at the latter: `held_out_loss` (where images are
        held out), `feature_spread`, `embedding_spread`, `feature_rank`.

    Raises:
        SourceError: images that cannot be read, or a source without an image to learn from.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
        TrainingError: the embeddings or features of different images have become alike.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = out / "training"
    if not folder.is_dir():
        refuse_foreign(out, "training")
    folder.mkdir(parents=True, exist_ok=True)
    images = load_training_images(recipe.data, None, recipe.seed, folder / "images")
    _check_sources(recipe, images)
    state = _build_state(recipe, device)
    resume(folder, _describe(recipe, images), state)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    options = recipe.training
    if options.compile:
        state.network.encoder.compile()
    losses: list[float] = []
    while state.step < options.steps:
        losses.append(_take_step(recipe, images, state, device))
        state.step += 1
        last = state.step == options.steps
        if state.step % LOG_EVERY == 0 or last:
            measured = {"loss": float(np.mean(losses))}
            losses.clear()
            append_log(folder, state.step, measured)
            report(state.step, options.steps, measured)
        if state.step % options.validate_every == 0 or last:
            measured = _validate(recipe, images, state, device, out)
            append_log(folder, state.step, measured)
            report(state.step, options.steps, measured)
        if state.step % options.checkpoint_every == 0 or last:
            save(folder, _describe(recipe, images), state)
    return {"step": state.step, "best_step": state.best_step, **state.best}


def _check_sources(recipe: EncoderRecipe, images: TrainingImages) -> None:
    for number, source in enumerate(recipe.data.sources):
        if not ((images.sources == number) & ~images.held_out).any():
            raise SourceError(
                f"{source.images}: no image is left to learn from: add images, or lower "
                "data.held_out"
            )


def _build_state(recipe: EncoderRecipe, device: torch.device) -> _State:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        network = Learner(recipe)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(network).requires_grad_(False).eval()
    options = recipe.training
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    return _State(network, average, optimizer)


def _take_step(
    recipe: EncoderRecipe, images: TrainingImages, state: _State, device: torch.device
) -> float:
    """One optimizer step; returns the loss."""
    options = recipe.training
    for group in state.optimizer.param_groups:
        group["lr"] = options.learning_rate * compute_rate(options, state.step)
    state.network.train()
    loss, _, _ = _compute(recipe, state.network, draw_pair(recipe, images, state.step), device)
    if not torch.isfinite(loss):
        raise TrainingError(
            f"step {state.step}: the loss is {loss.item()}: lower training.learning_rate, or set "
            "training.precision: float32"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 10.0)
    state.optimizer.step()
    update_average(state.average, state.network, options.ema_decay, state.step + 1)
    return loss.item()


def _compute(
    recipe: EncoderRecipe,
    network: Learner,
    pair: tuple[torch.Tensor, torch.Tensor],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns loss, (2 N, F) features and (2 N, D) embeddings; both views share a batch norm."""
    batch = torch.cat(pair).to(device, memory_format=torch.channels_last)
    dtype = getattr(torch, recipe.training.precision)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        features, embedding = network(batch)
    first, second = embedding.chunk(2)
    return compute_loss(first, second, recipe.method), features, embedding


def compute_rate(options: EncoderOptimisation, step: int) -> float:
    """Returns the learning-rate factor: a linear warm-up under a cosine from 1 to 0."""
    rise = (step + 1) / options.warmup_steps if step < options.warmup_steps else 1.0
    return min(rise, 1.0) * (1 + math.cos(math.pi * step / options.steps)) / 2


@torch.no_grad()
def update_average(
    average: torch.nn.Module, network: torch.nn.Module, decay: float, step: int
) -> None:
    """Moves the exponential moving average, with the warm-up (1 + n) / (10 + n).

    The statistics of batch norms move with the weights that they belong to.
    """
    keep = min(decay, (1 + step) / (10 + step))
    for mine, theirs in zip(
        [*average.parameters(), *average.buffers()],
        [*network.parameters(), *network.buffers()],
        strict=True,
    ):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1.0 - keep)
        else:
            mine.copy_(theirs)


def _validate(
    recipe: EncoderRecipe,
    images: TrainingImages,
    state: _State,
    device: torch.device,
    out: Path,
) -> dict[str, float]:
    """Measures the averaged weights, stops a collapsed training, exports the best so far."""
    measured = _measure(recipe, images, state.average, device)
    check_collapse(recipe, measured, state.step)
    loss = measured.get("held_out_loss")
    if not state.best or loss is None or loss < state.best["held_out_loss"]:
        state.best, state.best_step = measured, state.step
        result = {"step": state.step, "best_step": state.best_step, **measured}
        export_encoder(recipe, images, state.average.encoder, result, out)
    return measured


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
    recipe: EncoderRecipe, images: TrainingImages, network: Learner, device: torch.device
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
        pair = view_rows(recipe, images, chosen, seed)
        loss, found, embedding = _compute(recipe, network, pair, device)
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
    described: dict[str, Any] = json.loads(recipe.model_dump_json())
    for source in described["data"]["sources"]:
        source.pop("images")
    for name in ("validate_every", "checkpoint_every", "compile", "min_spread"):
        described["training"].pop(name)
    described.pop("export")
    return described | {"images": images.digest}
