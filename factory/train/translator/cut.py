"""Trains a network from images of one domain to those of another, of unpaired images (CUT)."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from factory.core.errors import SourceError
from factory.core.hashing import derive_seed
from factory.core.metrics import compute_kid
from factory.core.metrics.structure import correlate_haematoxylin
from factory.data.patients import write_patients
from factory.models.encoders import load_encoder
from factory.models.translators.config import ResnetSettings, TranslatorConfig
from factory.models.translators.folder import save_translator
from factory.train.augment import turn_images
from factory.train.images import TrainingImages, load_training_images
from factory.train.loop import Report, Trainer, open_folder
from factory.train.running import run_training
from factory.train.translator.contrast import Contrast
from factory.train.translator.export import describe_translator
from factory.train.translator.settings import CutRecipe

LEAST = 16
"""Held-out images of each domain under which nothing is measured."""
_SHOWN = 6
_BATCH = 8


def train_cut(recipe: CutRecipe, out: Path, report: Report) -> dict[str, Any]:
    """Trains, or resumes training, and writes the translator to `out`.

    The weights exported are the running average's at the validation whose translations have the
    lowest kernel distance to held-out target images; without enough of them, the last.

    Args:
        recipe: what to learn from and how; its paths are resolved.
        out: folder of the translator; `out/training` holds checkpoint, log and samples.
        report: progress callback; a validation reports `kid`, `kid_source` and `structure`.

    Returns:
        `step`, `best_step`, and of the latter `kid` of translations, `kid_source` of sources as
        they are, `structure` (correlation of the haematoxylin of both) and `validated`.

    Raises:
        SourceError: images that cannot be read, or a domain without one to learn from.
        MismatchError: `out` holds the checkpoint of another recipe; InputError: something else.
        TrainingError: the loss is no number.
    """
    folder = open_folder(out)
    images = load_training_images(recipe.data.views, None, recipe.seed, folder / "images")
    trainer = _CutTrainer(recipe, images, out)
    loop = run_training(trainer, folder, recipe, _describe(recipe, images), report)
    return trainer.summarise(loop.step)


class _CutTrainer(Trainer):
    """A game of generator and discriminator, and the contrast of patches, in one loss."""

    network: Contrast

    def __init__(self, recipe: CutRecipe, images: TrainingImages, out: Path) -> None:
        super().__init__()
        self._recipe, self._images, self._out = recipe, images, out
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._pools, self._held = [], []
        for number, side in enumerate((recipe.data.source, recipe.data.target)):
            is_own = images.sources == number
            self._pools.append(np.flatnonzero(is_own & ~images.held_out))
            self._held.append(np.flatnonzero(is_own & images.held_out))
            if not len(self._pools[-1]):
                told = "no image is left to learn from: add images, or lower data.held_out"
                raise SourceError(f"{side.images}: {told}")
        options, network = recipe.training, recipe.network
        self._settings = ResnetSettings(
            kind="resnet",
            channels=network.channels,
            blocks=network.blocks,
            antialias_down=network.antialias,
            antialias_up=network.antialias,
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            self.network = Contrast(self._settings, options).to(self._device)
        self.learning_rate, self.steps = options.learning_rate, options.steps
        self.ema_decay, self.checkpoint_every = options.ema_decay, options.checkpoint_every
        self.validate_every = recipe.validation.every
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=options.learning_rate, betas=(0.5, 0.999)
        )
        self._known: dict[str, Any] = {}

    def compute_rate(self, step: int) -> float:
        decay, left = self._recipe.training.decay_steps, self.steps - step
        return left / decay if left < decay else 1.0

    def compute_loss(self, network: Any, step: int, turn: int) -> Tensor:
        options, seed = self._recipe.training, self._recipe.seed
        draw = np.random.default_rng(derive_seed(seed, "batch", step, turn))
        source, target = (
            self._read(draw.choice(pool, options.batch_size), draw) for pool in self._pools
        )
        dtype = getattr(torch, options.precision)
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss: Tensor = network(source, target, derive_seed(seed, "patches", step, turn))
        return loss

    def validate(self, average: Any, step: int, loss: float) -> dict[str, float]:
        """Translates held-out images, shows some, and exports the weights if they are the best."""
        measured = self._measure(average.generator)
        grid = self._out / "training" / f"samples-{step:07d}.png"
        self._show(average.generator, grid)
        best = self.state.get("best")
        if best is None or not measured or measured["kid"] < best["kid"]:
            self.state = {"best": measured, "best_step": step}
            self._export(average.generator, step)
            shutil.copyfile(grid, self._out / "samples.png")
        return measured

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        quality = {n: best.get(n) for n in ("kid", "kid_source", "structure", "validated")}
        return {"step": step, "best_step": self.state.get("best_step", step), **quality}

    def _read(self, rows: Any, draw: np.random.Generator) -> Tensor:
        """Returns (N, 3, S, S) in [-1, 1], each image turned or flipped anew."""
        pixels = torch.from_numpy(np.stack([self._images.pixels[row] for row in rows]))
        plain = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        turns = torch.from_numpy(draw.integers(0, 8, len(rows)))
        return turn_images(plain, turns).to(self._device)

    def _measure(self, generator: Any) -> dict[str, float]:
        settings, seed = self._recipe.validation, self._recipe.seed
        if min(len(rows) for rows in self._held) < LEAST:
            return {}
        if not self._known:
            draw = np.random.default_rng(derive_seed(seed, "validation"))
            source, target = (
                self._images.pixels[np.sort(draw.permutation(rows)[: settings.images])]
                for rows in self._held
            )
            encoder = load_encoder(settings.encoder)
            real = encoder.encode(np.ascontiguousarray(target))
            mean, spread = real.mean(0), np.maximum(real.std(0), 1e-3)
            self._known = {"source": source, "encoder": encoder, "scale": (mean, spread)}
            self._known["real"] = (real - mean) / spread
            self._known["kid_source"] = compute_kid(self._encode(source), self._known["real"])
        source = self._known["source"]
        made = self._translate(generator, source)
        return {
            "kid": compute_kid(self._encode(made), self._known["real"]),
            "kid_source": self._known["kid_source"],
            "structure": float(np.nan_to_num(correlate_haematoxylin(source, made)).mean()),
            "validated": len(source),
        }

    def _encode(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        mean, spread = self._known["scale"]
        features = self._known["encoder"].encode(np.ascontiguousarray(images))
        return (features - mean) / spread  # type: ignore[no-any-return]

    @torch.no_grad()
    def _translate(self, generator: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        parts = []
        for start in range(0, len(images), _BATCH):
            block = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
            entered = block.permute(0, 3, 1, 2).float().to(self._device) / 127.5 - 1.0
            made = (generator(entered).float().cpu().nan_to_num() + 1.0) * 127.5
            parts.append(made.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        return np.concatenate(parts)

    def _show(self, generator: Any, path: Path) -> None:
        """Draws sources over their translations; held-out ones where there are some."""
        rows = (self._held[0] if len(self._held[0]) else self._pools[0])[:_SHOWN]
        source = np.stack([self._images.pixels[row] for row in rows])
        made = self._translate(generator, source)
        lines = [np.concatenate([*images], axis=1) for images in (source, made)]
        Image.fromarray(np.concatenate(lines)).save(path)

    def _export(self, generator: Any, step: int) -> None:
        recipe, result = self._recipe, self.summarise(step)
        size = recipe.data.image_size
        config = TranslatorConfig(
            network=self._settings, width=size, height=size, mpp=recipe.data.mpp
        )
        learnt = [len(pool) for pool in self._pools]
        lines = (
            "CUT (arXiv 2007.15651) from unpaired images, no label seen; sources over their "
            "translations: ![samples](samples.png)",
            f"{learnt[0]:,} source and {learnt[1]:,} target images to learn from",
            *_describe_result(result, recipe.validation.encoder),
        )
        how = f"contrast {recipe.training.contrast:g}"
        about = describe_translator(recipe, "CUT", step, how, lines)
        write_patients(self._images.patients, self._out)
        save_translator(generator.state_dict(), config, about, self._out)


def _describe_result(result: dict[str, Any], encoder: str) -> list[str]:
    if result["kid"] is None:
        return [f"not validated: fewer than {LEAST} images of a domain were held out"]
    return [
        f"on {result['validated']:,} held-out images, the weights of step {result['best_step']:,}: "
        f"kernel distance ({encoder}) to target images {result['kid']:.4g}, of the sources as they "
        f"are {result['kid_source']:.4g}; correlation of haematoxylin with the source "
        f"{result['structure']:.3f}"
    ]


def _describe(recipe: CutRecipe, images: TrainingImages) -> dict[str, Any]:
    """The fields that shape the weights; what is still to come may change on resume."""
    left_out: Any = {
        "data": {"source": {"images"}, "target": {"images"}},
        "training": {"steps", "decay_steps", "checkpoint_every"},
        **dict.fromkeys(("validation", "export"), True),
    }
    return recipe.model_dump(mode="json", exclude=left_out) | {"images": images.digest}
