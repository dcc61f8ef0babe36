"""Batches keyed by (seed, step, process): a resumed run draws what it would have drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import write_caption
from factory.catalog.catalog import ClassEntry
from factory.core.hashing import derive_seed
from factory.train.augment import jitter_stains, turn_images
from factory.train.generator.settings import DataSettings, OptimisationSettings, TrainingRecipe
from factory.train.images import TrainingImages

REFERENCE_NOISE = 0.3
"""Standard deviation of the noise on a reference's features, whose mean square is 1."""

REFERENCE_SHARE = 0.75
"""Least side of the view of itself that an image is shown as its reference."""

_TITLE_RATE = 0.5  # captions that open with the class's title, where the class is known


@dataclass(frozen=True, slots=True)
class Batch:
    """What one pass of one process learns from; shapes as in `Denoiser.forward`."""

    images: torch.Tensor
    labels: torch.Tensor
    captions: tuple[str, ...]
    reference: torch.Tensor | None
    blur: torch.Tensor | None
    sigma: torch.Tensor


@dataclass(frozen=True, slots=True)
class CaptionWriter:
    """Writes the caption of one view: given, or from what was measured in its pixels."""

    images: TrainingImages
    grid: CaptionGrid | None
    titles: Mapping[str, ClassEntry]

    def write(self, row: int, draw: np.random.Generator) -> str:
        """Returns a caption, or an empty text where nothing is known."""
        if self.grid is None:
            return self.images.captions[row] or ""
        caption = write_caption(self.grid, self.images.values[row], draw)
        label = int(self.images.labels[row])
        entry = self.titles.get(self.images.class_names[label]) if label >= 0 else None
        if entry is None or draw.random() >= _TITLE_RATE:
            return caption
        title = str(draw.choice([entry.title, *entry.synonyms]))
        return f"{title}. {caption}" if draw.random() < 0.5 else f"{caption} {title}."


def draw_batch(
    recipe: TrainingRecipe,
    images: TrainingImages,
    write: Callable[[int, np.random.Generator], str] | None,
    key: tuple[int, ...],
) -> Batch:
    """Draws one batch; it depends on the seed and `key` (step, pass, process) only.

    Sources are drawn by weight, images of a source evenly. Each image gets one of the eight flips
    and quarter turns and mild stain jitter. Times follow the logit-normal density of Esser et al.
    2024 (arXiv 2403.03206, section 3.1), or are uniform. The reference of an image is another view
    of it: turned, and cut to at least REFERENCE_SHARE of its side.
    """
    options, size = recipe.training, recipe.training.batch_size
    draw = np.random.default_rng(derive_seed(recipe.seed, "rows", *key))
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "batch", *key))
    rows = draw_rows(recipe.data, images, size, draw)
    pixels = torch.from_numpy(images.pixels[np.sort(rows)]).permute(0, 3, 1, 2)
    rows = np.sort(rows)
    plain = pixels.float() / 127.5 - 1.0
    plain = jitter_stains(plain, options.stain_jitter, generator)
    turned = turn_images(plain, torch.randint(0, 8, (size,), generator=generator))
    kept = torch.rand(size, generator=generator) >= options.dropout
    labels = torch.from_numpy(images.labels[rows])
    labels = torch.where(kept & _keep(options, size, generator), labels, -1)
    shown = kept & _keep(options, size, generator)
    captions = [
        write(int(row), draw) if write and keep else ""
        for row, keep in zip(rows, shown, strict=True)
    ]
    reference = blur = None
    if recipe.network.reference_dim:
        seen = kept & (torch.rand(size, generator=generator) < options.reference_rate)
        reference = cut_references(plain, generator)
        noise = torch.randn(size, recipe.network.reference_dim, generator=generator)
        blur = torch.cat([noise * REFERENCE_NOISE, seen.float().unsqueeze(1)], 1)
    times = torch.rand(size, generator=generator)
    if options.times == "logit-normal":
        times = torch.sigmoid(torch.randn(size, generator=generator))
    return Batch(turned, labels, tuple(captions), reference, blur, times)


def _keep(options: OptimisationSettings, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(size, generator=generator) >= options.stream_dropout


def draw_rows(
    data: DataSettings, images: TrainingImages, size: int, draw: np.random.Generator
) -> np.ndarray:
    """Draws rows to learn from: sources by weight, the views of a source evenly."""
    weights = np.array([source.weight for source in data.sources])
    chosen = draw.choice(len(weights), size, p=weights / weights.sum())
    pools = [
        np.flatnonzero((images.sources == source) & ~images.held_out)
        for source in range(len(weights))
    ]
    return np.array([pools[source][int(draw.integers(len(pools[source])))] for source in chosen])


def cut_references(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns another view of each image: a turned square of it, at the same size."""
    count, _, side, _ = images.shape
    turned = turn_images(images, torch.randint(0, 8, (count,), generator=generator))
    share = REFERENCE_SHARE + (1 - REFERENCE_SHARE) * torch.rand(count, 1, 1, generator=generator)
    shift = (torch.rand(count, 2, 1, generator=generator) * 2 - 1) * (1 - share)
    affine = torch.cat([torch.eye(2).expand(count, 2, 2) * share, shift], 2)
    grid = functional.affine_grid(affine, [count, 3, side, side], align_corners=False)
    return functional.grid_sample(turned, grid, align_corners=False, padding_mode="reflection")


def tokenize(tokenizer: object, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (B, T) tokens and the mask of those that count: none of an empty caption."""
    found = tokenizer(  # type: ignore[operator]
        [caption.lower().strip() for caption in captions],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    given = torch.tensor([bool(caption.strip()) for caption in captions]).unsqueeze(1)
    return found["input_ids"], found["attention_mask"] * given
