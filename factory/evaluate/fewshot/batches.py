"""Batches of a study: classes in equal parts, real and synthetic images mixed as asked."""

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.evaluate.fewshot.settings import SYNTHETIC_FIRST, Mix

Rows = NDArray[np.int64]


def draw_batches(
    labels: Rows,
    is_synthetic: NDArray[np.bool_],
    steps: int,
    batch_size: int,
    seed: int,
    mix: Mix,
) -> Rows:
    """Draws the rows of every batch.

    Classes take turns through all batches, so that each has the same part whatever its images.
    Within a class, images come from decks: each once before any comes again.

    Args:
        labels: (N,) class of each image, all of them in 0..C-1.
        is_synthetic: (N,).
        steps: number of batches.
        batch_size: images in each.
        seed: of the draw.
        mix: see StudySettings.

    Returns:
        (steps, batch_size) rows.
    """
    draw = np.random.default_rng(derive_seed(seed, "fewshot", "batches"))
    classes = np.unique(labels)
    total = steps * batch_size
    places = np.resize(draw.permutation(classes), total)
    switch = round(SYNTHETIC_FIRST * steps) * batch_size
    found = np.empty(total, np.int64)
    for name in classes:
        mine = np.flatnonzero(places == name)
        parts = [
            np.flatnonzero((labels == name) & (is_synthetic == kind)) for kind in (False, True)
        ]
        real, synthetic = parts
        if mix == "pooled" or not len(real) or not len(synthetic):
            found[mine] = _deal(np.concatenate(parts), len(mine), draw)
        elif mix == "balanced":
            found[mine[0::2]] = _deal(real, len(mine[0::2]), draw)
            found[mine[1::2]] = _deal(synthetic, len(mine[1::2]), draw)
        else:
            first, last = mine[mine < switch], mine[mine >= switch]
            found[first] = _deal(synthetic, len(first), draw)
            found[last] = _deal(real, len(last), draw)
    return found.reshape(steps, batch_size)


def _deal(rows: Rows, count: int, draw: np.random.Generator) -> Rows:
    """Returns `count` rows from shuffled decks."""
    decks = [draw.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate([*decks, rows[:0]])[:count]
