"""Validation of a generator of parallel streams: its loss on held-out views, and without a stream.

What the loss gains when a stream is left out is what the network makes of that stream: the ablation
that says whether it is heard at all.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from factory.core.hashing import derive_seed
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.multi_guidance import NAMES
from factory.models.generators.multi_streams import Streams
from factory.train.batches import tokenize
from factory.train.multi.batches import MultiBatch, Row, gather
from factory.train.multi.network import MultiDenoiser
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial

_BATCH = 16
_PER_ROW = 8


class MultiJudge:
    """Measures weights on the same held-out views, times and noise at every call."""

    def __init__(self, recipe: MultiRecipe, material: MultiMaterial, device: torch.device) -> None:
        self._recipe, self._material, self._device = recipe, material, device
        self.rows = choose_held_out(recipe, material)

    @torch.no_grad()
    def measure(self, network: MultiDenoiser) -> dict[str, float]:
        """Returns `validation_loss`, and for each stream `gap_STREAM`.

        The gap is the loss without the stream less the loss with it, over the views that have it;
        above 0 the stream helps. Nothing without held-out views.
        """
        with_all: list[torch.Tensor] = []
        gaps: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(self.rows), _BATCH):
            rows = self.rows[start : start + _BATCH]
            for part in split_by_size(rows, self._material):
                batch, loss = self._prepare(part), self._lose
                whole = loss(network, part, batch, batch.streams, batch.captions)
                with_all.append(whole)
                for name, has in self._find_streams(batch).items():
                    texts = ("",) * len(part) if name == "caption" else batch.captions
                    kept = batch.streams.keep(set(NAMES) - {name})
                    change = loss(network, part, batch, kept, texts) - whole
                    gaps.setdefault(name, []).append(change[has])
        if not with_all:
            return {}
        found = {"validation_loss": float(torch.cat(with_all).mean())}
        return found | {f"gap_{name}": float(torch.cat(each).mean()) for name, each in gaps.items()}

    def _prepare(self, rows: list[Row]) -> MultiBatch:
        draw = np.random.default_rng(
            derive_seed(self._recipe.seed, "validation-captions", *rows[0])
        )
        return gather(self._material.collection, self._material.grid, rows, draw)

    def _find_streams(self, batch: MultiBatch) -> dict[str, torch.Tensor]:
        """Returns stream -> (B,) bool, the rows that have it."""
        found = {name: batch.streams.present(name) for name in NAMES}
        if self._material.tokenizer is not None:
            found["caption"] = torch.tensor([bool(text) for text in batch.captions])
        return {name: rows for name, rows in found.items() if rows is not None and rows.any()}

    def _lose(
        self,
        network: MultiDenoiser,
        rows: list[Row],
        batch: MultiBatch,
        streams: Streams,
        captions: tuple[str, ...],
    ) -> torch.Tensor:
        """Returns (B,) squared errors of the velocity; times are spread evenly over the views."""
        clean = fold(batch.images, self._recipe).to(self._device)
        draws = [
            torch.Generator().manual_seed(derive_seed(self._recipe.seed, "validation", *row))
            for row in rows
        ]
        noise = torch.stack([torch.randn(clean.shape[1:], generator=each) for each in draws])
        noise = noise.to(self._device)
        sigma = torch.stack([torch.rand((), generator=each) for each in draws]) * 0.9 + 0.05
        weight = sigma.to(self._device).view(-1, 1, 1, 1)
        tokens, mask = encode(self._material, captions, self._device)
        velocity, *_ = network(
            (1 - weight) * clean + weight * noise, weight.flatten(), streams.to(self._device),
            tokens, mask,
        )  # fmt: skip
        error: torch.Tensor = velocity - (noise - clean)
        return error.square().mean((1, 2, 3)).cpu()


def fold(images: torch.Tensor, recipe: MultiRecipe) -> torch.Tensor:
    """Returns what the network learns of (B, 3, S, S) images: (B, 3 f^2, S / f, S / f)."""
    return torch.nn.functional.pixel_unshuffle(images, recipe.network.fold)


def encode(
    material: MultiMaterial, captions: tuple[str, ...], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Returns tokens and mask of captions; None where the model has none."""
    if material.tokenizer is None:
        return None, None
    tokens, mask = tokenize(material.tokenizer, captions)
    return tokens.to(device), mask.to(device)


def choose_held_out(recipe: MultiRecipe, material: MultiMaterial) -> list[Row]:
    """Draws held-out views, as many of each set as there are, up to an equal share."""
    draw = np.random.default_rng(derive_seed(recipe.seed, "validation"))
    sets = material.collection.sets
    share = max(1, recipe.validation.images // len(sets))
    rows: list[Row] = []
    for number, each in enumerate(sets):
        held = np.flatnonzero(each.held_out)
        chosen = draw.choice(held, min(share, len(held)), replace=False) if len(held) else held
        rows += [(number, int(view)) for view in np.sort(chosen)]
    return rows


def split_by_size(rows: list[Row], material: MultiMaterial) -> list[list[Row]]:
    """Returns the rows of each size of views."""
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(material.collection.sets[row[0]].size, []).append(row)
    return list(parts.values())


@torch.no_grad()
def save_sample_grid(
    material: MultiMaterial, folder: Path, recipe: MultiRecipe, rows: list[Row], path: Path
) -> None:
    """Draws held-out views in a row, and below each what each of its streams alone makes of it."""
    sets, size = material.collection.sets, recipe.data.image_size
    rows = [row for row in rows if sets[row[0]].size == size]
    rows = rows[:: max(1, len(rows) // _PER_ROW)][:_PER_ROW]
    if not rows:
        return
    pipeline: MultiPipeline = MultiPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    batch = gather(material.collection, material.grid, rows, np.random.default_rng(recipe.seed))
    shown = [((batch.images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()]
    for name, value in _list_calls(batch, material).items():
        images: Any = pipeline(
            **{name: value},
            num_inference_steps=recipe.sampling.steps,
            guidance_scale=recipe.sampling.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(rows))],
            height=shown[0].shape[1],
            width=shown[0].shape[2],
            output_type="np",
        ).images
        shown.append((np.nan_to_num(images) * 255).round().astype(np.uint8))
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in shown])).save(path)


def _list_calls(batch: MultiBatch, material: MultiMaterial) -> dict[str, Any]:
    """Returns an argument of the pipeline for each stream that any of the rows has."""
    streams = batch.streams
    found: dict[str, Any] = {}
    if material.tokenizer is not None:
        found["prompt"] = list(batch.captions)
    if streams.embedding is not None:
        found["image_embeds"] = list(streams.embedding.numpy())
    if streams.present("vector") is not None and streams.vector is not None:
        found["vector"] = streams.vector.numpy()
    if streams.present("control") is not None and streams.control is not None:
        maps = streams.control.numpy()
        found["control_maps"] = [None if (each < 0).all() else each for each in maps]
    if streams.present("class_name") is not None and streams.class_name is not None:
        found["class_labels"] = streams.class_name.tolist()
    return found
