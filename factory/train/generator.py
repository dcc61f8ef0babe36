"""Trains a class-conditioned flow-matching generator from scratch and exports a pipeline folder.

Every random draw is keyed by (seed, step), and the state is checkpointed with a rename, so a killed
run resumes to the same weights on the same machine.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch.nn.functional import mse_loss, pixel_unshuffle

from factory.errors import MismatchError, SourceError
from factory.fingerprint import derive_seed, diff_values
from factory.generators.pixel_flow import PixelFlowPipeline
from factory.sources import iterate_pixels, list_classes, list_images
from factory.train.settings import NetworkSettings, OptimisationSettings, TrainingRecipe

Report = Callable[[int, int, float], None]
"""Called with (step, steps, mean loss since the last call)."""


def train_generator(recipe: TrainingRecipe, out: Path, report: Report) -> Path:
    """Trains, or resumes training, and writes the pipeline to `out`.

    Args:
        recipe: what to train on and how.
        out: folder of the exported pipeline; `out/training` holds checkpoint, log and samples.
        report: progress callback.

    Returns:
        `out`, which `PixelFlowPipeline.from_pretrained` loads.

    Raises:
        SourceError: images that cannot be read or carry no class.
        MismatchError: `out` holds the checkpoint of another recipe.
    """
    folder = out / "training"
    folder.mkdir(parents=True, exist_ok=True)
    images, labels, class_names = load_training_images(recipe)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        network = build_network(recipe.network, recipe.data.image_size, len(class_names))
    average = build_network(recipe.network, recipe.data.image_size, len(class_names))
    average.load_state_dict(network.state_dict())
    options = recipe.training
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    step = _resume(folder, recipe, network, average, optimizer)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for module in (network, average):
        module.to(device)
    network.train()
    average.eval()
    predict = torch.compile(network) if options.compile else network
    losses: list[float] = []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * compute_rate(options, step)
        batch, classes, sigma, noise = draw_batch(recipe, images, labels, len(class_names), step)
        batch, noise = batch.to(device), noise.to(device)
        sigma, classes = sigma.to(device), classes.to(device)
        weight = sigma.view(-1, 1, 1, 1)
        noisy = (1 - weight) * batch + weight * noise
        dtype = getattr(torch, options.precision)
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            velocity = predict(noisy, sigma * 1000, class_labels=classes).sample
        loss = mse_loss(velocity.float(), noise - batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        update_average(average, network, options.ema_decay, step)
        losses.append(loss.item())
        if step % 50 == 0 or step == options.steps:
            _append_log(folder, step, float(np.mean(losses)))
            report(step, options.steps, float(np.mean(losses)))
            losses.clear()
        if step % options.checkpoint_every == 0 or step == options.steps:
            _save(folder, recipe, step, network, average, optimizer)
            export_pipeline(recipe, average, class_names, out)
            save_sample_grid(out, folder / f"samples-{step:07d}.png", len(class_names))
    return out


def load_training_images(
    recipe: TrainingRecipe,
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Reads all training images into memory.

    Returns:
        (N, 3, S, S) uint8 images, (N,) int64 class indices, class names.

    Raises:
        SourceError: an image cannot be read or has no class.
    """
    data = recipe.data
    found = list_images(data.images)
    class_names = list_classes(found)
    if any(image.class_name is None for image in found):
        raise SourceError(f"{data.images}: images without a class: put them in class folders")
    commas = [name for name in class_names if "," in name]
    if commas:
        raise SourceError(f"{data.images}: class {commas[0]!r}: rename the folder without a comma")
    pixels = np.stack(list(iterate_pixels(found, data.image_size, data.fit)))
    labels = [class_names.index(str(image.class_name)) for image in found]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels), class_names


def build_network(settings: NetworkSettings, image_size: int, classes: int) -> UNet2DModel:
    """Builds the velocity network; class index `classes` is the null class."""
    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention)
    up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention))
    depth = 3 * settings.fold**2
    return UNet2DModel(
        sample_size=image_size // settings.fold,
        in_channels=depth,
        out_channels=depth,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=32,
        num_class_embeds=classes + 1,
    )


def draw_batch(
    recipe: TrainingRecipe,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws the batch of one step; it depends on (seed, step) only.

    Images are walked epoch by epoch and get one of the eight flips and quarter turns; a tissue
    section has no up. Times follow the logit-normal density of Esser et al. 2024
    (arXiv 2403.03206, section 3.1).

    Returns:
        (B, 3 f^2, S/f, S/f) float images in [-1, 1], (B,) class indices with some replaced by the
        null class, (B,) float sigma in (0, 1), and noise like the images.
    """
    options, seed = recipe.training, recipe.seed
    size, total = options.batch_size, len(images)
    positions = np.arange(step * size, (step + 1) * size)
    order = {
        int(epoch): np.random.default_rng(derive_seed(seed, "epoch", int(epoch))).permutation(total)
        for epoch in np.unique(positions // total)
    }
    chosen = np.array([order[int(p // total)][p % total] for p in positions])
    generator = torch.Generator().manual_seed(derive_seed(seed, "step", step))
    turns = torch.randint(0, 8, (size,), generator=generator).tolist()
    batch = images[torch.from_numpy(chosen)].float() / 127.5 - 1.0
    for row, turn in enumerate(turns):
        image = torch.rot90(batch[row], turn % 4, (1, 2))
        batch[row] = image.flip(2) if turn >= 4 else image
    folded = pixel_unshuffle(batch, recipe.network.fold)
    dropped = torch.rand(size, generator=generator) < options.label_dropout
    kept = torch.where(dropped, torch.full((size,), classes), labels[torch.from_numpy(chosen)])
    sigma = torch.sigmoid(torch.randn(size, generator=generator))
    noise = torch.randn(folded.shape, generator=generator)
    return folded, kept, sigma, noise


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
    theirs = dict(network.named_parameters())
    for name, mine in average.named_parameters():
        mine.lerp_(theirs[name].to(mine.dtype), 1.0 - keep)


def export_pipeline(
    recipe: TrainingRecipe, average: UNet2DModel, class_names: tuple[str, ...], out: Path
) -> None:
    """Writes the averaged network as a float16 safetensors pipeline folder."""
    network = build_network(recipe.network, recipe.data.image_size, len(class_names))
    network.load_state_dict({key: value.cpu() for key, value in average.state_dict().items()})
    pipeline = PixelFlowPipeline(
        unet=network.half().eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        class_names=",".join(class_names),
        fold=recipe.network.fold,
        mpp=recipe.data.mpp,
    )
    pipeline.save_pretrained(out, safe_serialization=True)


def save_sample_grid(folder: Path, path: Path, classes: int, per_class: int = 8) -> None:
    """Draws `per_class` samples of every class from the pipeline in `folder`, one row each."""
    pipeline = PixelFlowPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for label in range(classes):
        generators = [torch.Generator().manual_seed(index) for index in range(per_class)]
        images = pipeline(
            [label] * per_class, guidance_scale=1.5, generator=generators, output_type="np"
        ).images
        rows.append(np.concatenate(list(images), axis=1))
    pipeline.numpy_to_pil(np.concatenate(rows, axis=0))[0].save(path)


def _resume(
    folder: Path,
    recipe: TrainingRecipe,
    network: UNet2DModel,
    average: UNet2DModel,
    optimizer: torch.optim.Optimizer,
) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    differences = diff_values(json.loads(state["recipe"]), _describe(recipe))
    if differences:
        changed = "; ".join(f"{name}: {old!r} -> {new!r}" for name, old, new in differences)
        raise MismatchError(
            f"{folder}: checkpoint of another recipe ({changed}): use another --out"
        )
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _describe(recipe: TrainingRecipe) -> dict[str, Any]:
    """The fields that shape the weights; the length of training may change on resume."""
    described: dict[str, Any] = json.loads(recipe.model_dump_json())
    described["data"].pop("images")
    for field in ("steps", "decay_steps", "checkpoint_every", "compile"):
        described["training"].pop(field)
    return described


def _save(
    folder: Path,
    recipe: TrainingRecipe,
    step: int,
    network: UNet2DModel,
    average: UNet2DModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    state = {
        "recipe": json.dumps(_describe(recipe)),
        "step": step,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    temporary = folder / "checkpoint.tmp"
    torch.save(state, temporary)
    temporary.replace(folder / "checkpoint.pt")


def _append_log(folder: Path, step: int, loss: float) -> None:
    line = json.dumps({"step": step, "loss": round(loss, 5), "time": round(time.time(), 1)})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
