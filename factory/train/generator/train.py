"""Trains a flow-matching generator from scratch or from a checkpoint, and exports the best weights.

Every random draw is keyed by (seed, step), and the state is checkpointed with a rename, so a killed
run resumes to the same weights on the same machine with the same number of threads. On several
GPUs: `accelerate launch -m factory train generator RECIPE --out DIR`.
"""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

from factory.catalog.catalog import Catalogs
from factory.core.files.new_folder import refuse_foreign
from factory.core.hashing import derive_seed
from factory.models.generators.flow import FlowPipeline
from factory.train.batches import draw_batch, tokenize
from factory.train.encoder.trunk import teach_reading
from factory.train.generator.export import write_catalog_entry, write_model_card
from factory.train.generator.network import Denoiser, build_denoiser, export_pipeline, start_from
from factory.train.generator.settings import OptimisationSettings, TrainingRecipe
from factory.train.generator.setup import Material, prepare_material
from factory.train.generator.validation import Judge, save_sample_grid
from factory.train.loop import TrainingState, append_log, resume, save

Report = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, measurements: `loss`, or after a validation `kid` and `fd`)."""

LOG_EVERY = 50  # steps


_State = TrainingState[Denoiser]


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
        report: progress callback.

    Returns:
        `step`, `best_step`, and of the latter `kid`, `fd` and `validated`, None without validation.
        None in all processes but the first.

    Raises:
        SourceError: images that cannot be read or carry no class.
        InputError: a grid, class list or model that there is not, or that does not fit.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
    """
    accelerator = Accelerator(gradient_accumulation_steps=recipe.training.accumulate)
    folder = out / "training"
    if not folder.is_dir():
        refuse_foreign(out, "training")
    folder.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        material = prepare_material(recipe, catalogs, folder)
    state = _build_state(recipe, material, accelerator.device)
    resume(folder, _describe(recipe, material), state)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    judge = Judge(recipe, material, accelerator.device)
    if recipe.training.compile:
        state.network.unet.compile()
    network, optimizer = accelerator.prepare(state.network, state.optimizer)
    losses: list[float] = []
    options = recipe.training
    while state.step < options.steps:
        losses.append(_take_step(accelerator, recipe, material, network, optimizer, state.step))
        state.step += 1
        update_average(state.average, state.network, options.ema_decay, state.step)
        last = state.step == options.steps
        if not accelerator.is_main_process:
            continue
        if state.step % LOG_EVERY == 0 or last:
            measured = {"loss": float(np.mean(losses))}
            losses.clear()
            append_log(folder, state.step, measured)
            report(state.step, options.steps, measured)
        if state.step % recipe.validation.every == 0 or last:
            _validate(recipe, material, state, judge, out, report)
        if state.step % options.checkpoint_every == 0 or last:
            save(folder, _describe(recipe, material), state)
    if not accelerator.is_main_process:
        return None
    if options.reading_steps:
        return _read(recipe, material, state, judge, out, report)
    return _summarise(state)


def _read(
    recipe: TrainingRecipe,
    material: Material,
    state: _State,
    judge: Judge,
    out: Path,
    report: Report,
) -> dict[str, Any]:
    """Teaches the best weights to read captions and exports them; they are kept as they were.

    Returns:
        The summary, with `reading` and the distances of what is exported.
    """
    folder, names = out / "training", material.images.class_names
    unread = folder / f"unread-{state.best_step:07d}"
    if not unread.exists():
        partial = folder / "unread.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(out, partial, ignore=shutil.ignore_patterns("training"))
        partial.rename(unread)
    network = deepcopy(state.average)
    start_from(network, names, FlowPipeline.from_pretrained(unread, dtype=torch.float32))
    measured = {"reading": teach_reading(recipe, material, network)}
    export_pipeline(recipe, network, material.tokenizer, material.vae, names, out)
    measured |= judge.measure(out)
    save_sample_grid(material, out, recipe, out / "samples.png")
    append_log(folder, state.step, measured)
    report(state.step, recipe.training.steps, measured)
    summary = {**_summarise(state), **measured}
    write_catalog_entry(recipe, material, out)
    write_model_card(recipe, material, summary, out)
    return summary


def _take_step(
    accelerator: Accelerator,
    recipe: TrainingRecipe,
    material: Material,
    network: Any,
    optimizer: Any,
    step: int,
) -> float:
    """One optimizer step; returns the mean loss of this process."""
    options, device = recipe.training, accelerator.device
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * compute_rate(options, step)
    dtype = getattr(torch, options.precision)
    total = 0.0
    network.train()
    for turn in range(options.accumulate):
        key = (step, turn, accelerator.process_index)
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
        with accelerator.accumulate(network):
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
            loss = mse_loss(velocity.float(), noise - target)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
    return total / options.accumulate


def compute_rate(options: OptimisationSettings, step: int) -> float:
    """Returns the learning-rate factor: warm-up, constant, then linear decay to 0."""
    rise = (step + 1) / options.warmup_steps if step < options.warmup_steps else 1.0
    left = options.steps - step
    fall = left / options.decay_steps if left < options.decay_steps else 1.0
    return min(rise, fall)


@torch.no_grad()
def update_average(
    average: torch.nn.Module, network: torch.nn.Module, decay: float, step: int
) -> None:
    """Moves the exponential moving average, with the warm-up (1 + n) / (10 + n)."""
    keep = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1.0 - keep)


def _build_state(recipe: TrainingRecipe, material: Material, device: torch.device) -> _State:
    """Builds seeded networks, or takes those of the model to go on from."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        network = build_denoiser(
            recipe.network,
            recipe.data.image_size,
            len(material.images.class_names),
            material.tokenizer,
            material.latent,
        )
    if material.start is not None:
        start_from(network, material.images.class_names, material.start)
    average = deepcopy(network).requires_grad_(False).eval()
    options = recipe.training
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    return _State(network, average.to(device), optimizer)


def _validate(
    recipe: TrainingRecipe,
    material: Material,
    state: _State,
    judge: Judge,
    out: Path,
    report: Report,
) -> None:
    """Samples the averaged weights and exports them where they are the best so far."""
    folder = out / "training"
    names = material.images.class_names
    current = folder / "last"
    export_pipeline(recipe, state.average, material.tokenizer, material.vae, names, current)
    measured = judge.measure(current)
    grid = folder / f"samples-{state.step:07d}.png"
    save_sample_grid(material, current, recipe, grid)
    if measured:
        append_log(folder, state.step, measured)
        report(state.step, recipe.training.steps, measured)
    if not state.best or not measured or measured["kid"] < state.best["kid"]:
        state.best, state.best_step = measured, state.step
        export_pipeline(recipe, state.average, material.tokenizer, material.vae, names, out)
        shutil.copyfile(grid, out / "samples.png")
    write_catalog_entry(recipe, material, out)
    write_model_card(recipe, material, _summarise(state), out)


def _summarise(state: _State) -> dict[str, Any]:
    quality = {name: state.best.get(name) for name in ("kid", "fd", "validated")}
    return {"step": state.step, "best_step": state.best_step, **quality}


def _describe(recipe: TrainingRecipe, material: Material) -> dict[str, Any]:
    """The fields that shape the weights; what is still to come may change on resume."""
    described: dict[str, Any] = json.loads(recipe.model_dump_json())
    for source in described["data"]["sources"]:
        source.pop("images")
    for name in ("steps", "decay_steps", "reading_steps", "checkpoint_every", "compile"):
        described["training"].pop(name)
    for section in ("validation", "sampling", "export", "init", "catalogs"):
        described.pop(section)
    return described | {"images": material.images.digest, "start": material.start_sha256}
