"""Batches of a generator of parallel streams, keyed by (seed, step, process)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import write_caption
from factory.core.hashing import derive_seed
from factory.models.generators.multi_guidance import NAMES
from factory.models.generators.multi_streams import Streams
from factory.train.augment import jitter_stains, turn_images
from factory.train.multi.network import Scales
from factory.train.multi.settings import MultiOptimisation, MultiRecipe
from factory.train.multi.views import Collection

EMBEDDING_NOISE = 0.2
"""Standard deviation of the noise on features shown to the network, in units of theirs."""
_TELL_MOST = ("caption", "embedding")
_CPU = torch.device("cpu")
Row = tuple[int, int]
"""Source and view."""


@dataclass(frozen=True, slots=True)
class MultiBatch:
    """What one pass learns from.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        streams: of the rows, all but the captions.
        captions: texts, empty where there is none.
    """

    images: torch.Tensor
    streams: Streams
    captions: tuple[str, ...]


def draw_rows(recipe: MultiRecipe, collection: Collection, key: tuple[int, ...]) -> list[Row]:
    """Draws the rows of a batch: one size of views, its sources by weight, their views evenly."""
    draw = np.random.default_rng(derive_seed(recipe.seed, "rows", *key))
    pools = [np.flatnonzero(~each.held_out) for each in collection.sets]
    weights = np.array(
        [s.weight * bool(len(pool)) for s, pool in zip(recipe.data.sources, pools, strict=True)]
    )
    sizes = np.array([each.size for each in collection.sets])
    size = sizes[draw.choice(len(sizes), p=weights / weights.sum())]
    weights = weights * (sizes == size)
    chosen = draw.choice(len(weights), recipe.training.batch_size, p=weights / weights.sum())
    return [(int(s), int(pools[s][int(draw.integers(len(pools[s])))])) for s in chosen]


def draw_batch(
    recipe: MultiRecipe,
    collection: Collection,
    grid: CaptionGrid | None,
    scales: Scales,
    key: tuple[int, ...],
    device: torch.device = _CPU,
) -> MultiBatch:
    """Draws one batch: each image turned and jittered, and some of what is known of it left out.

    `scales` are means and standard deviations of the streams, which noise has in proportion. All
    random numbers are a CPU's; what is done to pixels is done on `device`.
    """
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "batch", *key))
    draw = np.random.default_rng(derive_seed(recipe.seed, "captions", *key))
    rows, options = draw_rows(recipe, collection, key), recipe.training
    batch = gather(collection, grid, rows, draw, device)
    turns = torch.randint(0, 8, (len(rows),), generator=generator)
    images = turn_images(jitter_stains(batch.images, options.stain_jitter, generator), turns)
    streams = batch.streams
    if streams.control is not None:
        streams = replace(streams, control=turn_images(streams.control.unsqueeze(1), turns)[:, 0])
    if streams.embedding is not None and "embedding" in scales:
        streams = _add_noise(streams, "embedding", EMBEDDING_NOISE, scales, generator)
    dropped = _draw_dropped(options, len(rows), generator)
    alone = [recipe.data.sources[source].alone for source, _ in rows]
    if any(alone):
        is_alone = torch.rand(len(rows), generator=generator) < torch.tensor(alone)
        for name in _TELL_MOST:
            dropped[name] |= is_alone
    if streams.vector is not None and options.vector_noise:
        streams = _add_noise(streams, "vector", options.vector_noise, scales, generator)
    for name in NAMES:
        streams = streams.drop(name, dropped[name].to(device))
    told = zip(batch.captions, dropped["caption"].tolist(), strict=True)
    return MultiBatch(images, streams, tuple("" if gone else text for text, gone in told))


def _add_noise(
    streams: Streams, name: str, share: float, scales: Scales, generator: torch.Generator
) -> Streams:
    """Adds noise of `share` times the standard deviation of each number of a stream."""
    value = getattr(streams, name)
    noise = torch.randn(value.shape, generator=generator) * share
    noisy = value + (noise * torch.from_numpy(scales[name][1])).to(value.device)
    return replace(streams, **{name: noisy})


def _draw_dropped(
    options: MultiOptimisation, count: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Returns stream -> (B,) bool, the rows that are not shown it."""
    nothing = torch.rand(count, generator=generator) < options.dropout
    found = {}
    shown = {"embedding": options.embedding_rate, "control": options.control_rate}
    for name in NAMES:
        rate = 1 - shown.get(name, 1.0) * (1 - options.stream_dropout)
        found[name] = nothing | (torch.rand(count, generator=generator) < rate)
    return found


def gather(
    collection: Collection,
    grid: CaptionGrid | None,
    rows: Sequence[Row],
    draw: np.random.Generator,
    device: torch.device = _CPU,
) -> MultiBatch:
    """Returns rows of one size as they are, with all that is known of them, on `device`."""
    sets = collection.sets
    pixels = torch.from_numpy(np.stack([sets[source].pixels[view] for source, view in rows]))
    images = pixels.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    captions = [
        write_caption(grid, sets[source].attributes[view], draw) if grid else ""
        for source, view in rows
    ]
    streams = Streams(
        class_name=torch.tensor([int(sets[source].labels[view]) for source, view in rows]),
        vector=torch.from_numpy(np.stack([sets[source].vector[view] for source, view in rows])),
        control=_gather_maps(collection, rows),
        scale=torch.tensor([float(sets[source].mpp[view]) for source, view in rows]),
    )
    features = [(sets[source].features, view) for source, view in rows]
    if all(each is not None for each, _ in features):
        tokens = np.stack([each[view] for each, view in features])[:, None]  # type: ignore[index]
        mask = torch.ones(len(rows), 1, dtype=torch.bool)
        streams = replace(streams, embedding=torch.from_numpy(tokens), embedding_mask=mask)
    kept = [name for name in NAMES if getattr(streams, name) is not None]
    if not collection.class_names:
        kept.remove("class_name")
    if not collection.vector_names:
        kept.remove("vector")
    return MultiBatch(images, streams.keep(kept).to(device), tuple(captions))


def _gather_maps(collection: Collection, rows: Sequence[Row]) -> torch.Tensor | None:
    masks = [(collection.sets[source].masks, view) for source, view in rows]
    if all(each is None for each, _ in masks):
        return None
    size = collection.sets[rows[0][0]].size
    none = np.full((size, size), -1, np.int64)
    found = [none if each is None else each[view].astype(np.int64) for each, view in masks]
    return torch.from_numpy(np.stack(found))


def measure_features(
    collection: Collection, name: str = "features"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns mean and standard deviation of `features` or `vector` over the views learned from."""
    parts = [getattr(each, name)[~each.held_out] for each in collection.sets]
    known = np.concatenate(parts)
    known = known[~np.isnan(known).all(1)]
    mean, spread = np.nanmean(known, 0), np.maximum(np.nanstd(known, 0), 1e-3)
    return mean.astype(np.float32), spread.astype(np.float32)
