"""Trains a network from images to channels of the same place, of pairs: H&E to mIF, or to IHC."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from factory.catalog.entries import ImageChannels
from factory.core.hashing import derive_seed
from factory.data.channels import compose_rgb
from factory.data.patients import write_patients
from factory.models.translators import TranslatorConfig, build_network
from factory.models.translators.config import UnetSettings, count_entering
from factory.models.translators.folder import save_translator
from factory.models.translators.path import follow, join_channels, mix
from factory.train.augment import turn_images
from factory.train.loop import Report, open_folder
from factory.train.running import run_training
from factory.train.translator.export import describe_translator
from factory.train.translator.images import ImagePairs, load_image_pairs
from factory.train.translator.settings import PairedRecipe
from factory.train.translator.trainer import PairTrainer, describe_shaping

_SHOWN = 6
_BATCH = 8


def train_paired(recipe: PairedRecipe, out: Path, report: Report) -> dict[str, Any]:
    """Trains, or resumes training, and writes the translator to `out`.

    The weights exported are the running average's at the validation whose images come nearest to
    the held-out targets; without held-out pairs, the last.

    Args:
        recipe: what to learn from and how; its paths are resolved.
        out: folder of the translator; `out/training` holds checkpoint and log.
        report: progress callback; a validation reports what `measure` returns.

    Returns:
        `step`, `best_step`, `pairs`, `held_out`, `passed`, and of `best_step` `pixel_error` (the
        root of the mean squared distance to held-out targets in [0, 1]), `mean_error` (that of the
        mean image of the others) and `correlation` (Pearson's over pixels, mean of the channels).

    Raises:
        SourceError: pairs that cannot be read, or too few; InputError: `out` holds something else.
        MismatchError: `out` holds the checkpoint of another recipe.
        TrainingError: the loss is no number.
    """
    folder = open_folder(out)
    pairs = load_image_pairs(recipe)
    trainer = _PairedTrainer(recipe, pairs, out)
    shaping = describe_shaping(recipe, pairs, "validated")
    shaping["path_steps"] = bool(recipe.path_steps)
    loop = run_training(trainer, folder, recipe, shaping, report)
    return trainer.summarise(loop.step)


class _PairedTrainer(PairTrainer):
    """Foresees the target from the source beside it on the straight way from noise."""

    def __init__(self, recipe: PairedRecipe, pairs: ImagePairs, out: Path) -> None:
        self._recipe, self._pairs = recipe, pairs
        self.settings = UnetSettings(
            kind="unet",
            in_channels=count_entering(pairs.depth) if recipe.path_steps else 3,
            out_channels=pairs.depth,
            channels=recipe.network.channels,
            downs=recipe.network.downs,
            norm="instance",
        )
        super().__init__(recipe, pairs, out)

    def build(self) -> nn.Module:
        return build_network(self.settings)

    def compute_loss(self, network: Any, step: int, turn: int) -> Tensor:
        draw, rows = self.draw_rows(step, turn)
        source, target = self._read(rows, draw)
        if not self._recipe.path_steps:
            return mse_loss(network(source), target)
        shape = target.shape
        noise = torch.from_numpy(draw.standard_normal(shape, np.float32)).to(self._device)
        times = torch.from_numpy(draw.random(len(rows), np.float32)).to(self._device)
        foreseen = network(join_channels(source, mix(noise, target, times), times))
        return mse_loss(foreseen, target)

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Translates held-out sources, and exports the weights that come nearest."""
        average.eval()
        measured = self._measure(average)
        best = self.state.get("best")
        if best is None or not measured or measured["pixel_error"] < best["pixel_error"]:
            self.state = {"best": measured, "best_step": step}
            self._show(average, self._out / "samples.png")
            self._export(average, step)
        return measured

    def _read(self, rows: Any, draw: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Returns sources and targets in [-1, 1]; turned alike, where they are drawn."""
        found = [self._pairs.read(row, draw) for row in rows]
        both = torch.from_numpy(np.stack([np.concatenate(pair) for pair in found])) * 2.0 - 1.0
        if draw is not None:
            both = turn_images(both, torch.from_numpy(draw.integers(0, 8, len(rows))))
        both = both.to(self._device)
        return both[:, :3], both[:, 3:]

    @torch.no_grad()
    def _translate(self, network: Any, rows: Any) -> tuple[NDArray[np.float32], ...]:
        """Returns sources, targets and what is made of the sources, (N, C, S, S) in [0, 1]."""
        parts = []
        for start in range(0, len(rows), _BATCH):
            block = rows[start : start + _BATCH]
            source, target = self._read(block)
            if self._recipe.path_steps:
                seeds = [derive_seed(self._recipe.seed, "validation", int(row)) for row in block]
                noise = torch.stack([_draw_noise(target[0], seed) for seed in seeds])
                made = follow(network, source, noise.to(source), self._recipe.path_steps)
            else:
                made = network(source)
            parts.append([((each + 1) / 2).cpu().numpy() for each in (source, target, made)])
        return tuple(np.concatenate(each).clip(0, 1) for each in zip(*parts, strict=True))

    def _measure(self, network: Any) -> dict[str, float]:
        rows = np.flatnonzero(self._pairs.held_out)[: self._recipe.validated]
        if not len(rows):
            return {}
        _, target, made = self._translate(network, rows)
        known = [self._pairs.read(row)[1].mean((1, 2)) for row in self._rows[: len(rows) * 4]]
        mean = np.mean(known, axis=0)[None, :, None, None]
        planes = zip(target.swapaxes(0, 1), made.swapaxes(0, 1), strict=True)
        return {
            "pixel_error": math.sqrt(float(np.square(made - target).mean())),
            "mean_error": math.sqrt(float(np.square(mean - target).mean())),
            "correlation": float(np.mean([_correlate(*pair) for pair in planes])),
        }

    def _show(self, network: Any, path: Path) -> None:
        """Draws sources, targets and what is made, one under the other; held-out ones if any."""
        held = np.flatnonzero(self._pairs.held_out)
        parts = self._translate(network, (held if len(held) else self._rows)[:_SHOWN])
        channels = self._config.channels
        lines = [
            np.concatenate([_compose(image, None if line == 0 else channels) for image in part], 1)
            for line, part in enumerate(parts)
        ]
        Image.fromarray(np.concatenate(lines)).save(path)

    @property
    def _config(self) -> TranslatorConfig:
        data = self._recipe.data
        return TranslatorConfig(
            network=self.settings,
            channel_names=self._pairs.names,
            path_steps=self._recipe.path_steps or None,
            width=data.image_size,
            height=data.image_size,
            mpp=data.mpp,
        )

    def _export(self, network: Any, step: int) -> None:
        recipe, told = self._recipe, self.summarise(step)
        way = "source and noise side by side" if recipe.path_steps else "one pass"
        lines = (
            f"pairs of the same place, {way}; sources, targets and what is made of the sources: "
            "![samples](samples.png)",
            f"{told['pairs']:,} pairs to learn from, {told['held_out']:,} held out",
            *(() if "pixel_error" not in told else (describe_paired(told),)),
        )
        how = f"AdamW, running average {recipe.training.ema_decay}"
        about = describe_translator(recipe, "of pairs", step, how, lines)
        write_patients(self._pairs.patients, self._out)
        save_translator(network.state_dict(), self._config, about, self._out)


def describe_paired(told: dict[str, Any]) -> str:
    """Returns what was measured on held-out pairs, in words."""
    return (
        f"on {told['held_out']:,} held-out pairs: error of a pixel {told['pixel_error']:.3f} (of "
        f"the mean image {told['mean_error']:.3f}), correlation over pixels "
        f"{told['correlation']:.3f}"
    )


def _draw_noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def _correlate(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Returns Pearson's correlation over all pixels; 0 where either is constant."""
    if not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _compose(image: NDArray[np.float32], channels: ImageChannels | None) -> NDArray[np.uint8]:
    if channels is not None:
        return compose_rgb(image, channels)
    pixels: NDArray[np.uint8] = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    return pixels
