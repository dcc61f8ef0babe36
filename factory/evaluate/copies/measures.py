"""Measures of copying from nearest neighbours, each beside what is usual for unseen images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError
from factory.core.files.rows import Rows
from factory.core.hashing import derive_seed
from factory.core.metrics import compute_copy_test, find_nearest
from factory.core.metrics.copying import LEAST_IN_CELL
from factory.core.stats.intervals import (
    Interval,
    bootstrap_mean,
    compute_wilson,
    draw_rows,
    take_percentiles,
)
from factory.evaluate.copies.similarity import Similar

Floats = NDArray[np.float64]
NEAR = (0.01, 0.05)
"""Quantiles of the usual distances: a share as large as its quantile is what chance gives."""
_ROUNDS = 500
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances in an encoder's features to the nearest training image.

    Attributes:
        position: (N,) the nearest training image.
        distance: (N,) to it.
        own: (N,) from that training image to its nearest other one.
    """

    position: NDArray[np.int64]
    distance: Floats
    own: Floats

    @property
    def ratio(self) -> Floats:
        """(N,) distance in units of how near training images are to each other there."""
        return np.asarray(self.distance / np.maximum(self.own, _SMALLEST))


def measure_distances(train: Rows, queries: Rows | None, own: Floats) -> Distances:
    """Finds the nearest training image of each query, or of each training image (None).

    Args:
        train: (L, D).
        queries: (N, D).
        own: (L,) distance of each training image to its nearest other one.
    """
    is_same = queries is None
    positions, distances = find_nearest(train if queries is None else queries, train, is_same)
    return Distances(positions, distances, own[positions])


def describe_authenticity(near: Distances, seed: int) -> dict[str, Any]:
    """Returns AuthPct of Alaa et al. 2022: see `factory.core.metrics.compute_authenticity`."""
    return _describe(bootstrap_mean((near.own < near.distance) * 100.0, seed))


def describe_copy_test(
    train: Rows, held_out: Rows | None, synthetic: Rows, cells: int, seed: int
) -> dict[str, Any]:
    """Returns C_T of Meehan et al. 2020, Z of all as one cell, and the cells; or why there is none.

    Args:
        train: (L, D).
        held_out: (N, D), or None.
        synthetic: (M, D).
        cells: of k-means.
        seed: of k-means.
    """
    if held_out is None:
        return {"value": None, "refused": "needs --held-out: real images that no training used"}
    found = compute_copy_test(train, held_out, synthetic, cells=cells, seed=seed)
    told: dict[str, Any] = {"value": found.c_t, "z": found.z, "cells": list(found.cells)}
    if found.c_t is None:
        told["refused"] = f"no cell holds more than {LEAST_IN_CELL} synthetic and a held-out image"
    return told


def describe_distances(near: Distances, usual: Distances, seed: int) -> dict[str, Any]:
    """Compares distances to the training set with those that unseen images have.

    Returns:
        The medians, their `ratio`, and the shares of synthetic images that are nearer than the
        NEAR quantiles of the usual distances.

    Raises:
        EvaluationError: half of the usual distances are 0.
    """
    middle, other = float(np.median(near.distance)), float(np.median(usual.distance))
    if other == 0.0:
        raise EvaluationError(
            "half of the real images have a twin in the training set: remove the duplicates"
        )
    draw = np.random.default_rng(derive_seed(seed, "medians"))
    medians = [
        np.concatenate([np.median(x[rows], axis=1) for rows in draw_rows(draw, len(x), _ROUNDS)])
        for x in (near.distance, usual.distance)
    ]
    shares = {}
    for quantile in NEAR:
        is_near = near.distance < np.quantile(usual.distance, quantile)
        shares[f"nearer_than_{quantile:g}"] = _describe_share(is_near)
    return {
        "median": middle,
        "usual_median": other,
        "ratio": _describe(take_percentiles(middle / other, medians[0] / medians[1])),
        **shares,
    }


def describe_similarity(found: Similar, max_similarity: float) -> dict[str, Any]:
    """Returns the share of images above the similarity, and how many of them show nothing."""
    above = found.similarity > max_similarity
    shown = found.similarity[~found.is_blank]
    return {
        "images": len(above),
        "above": int(above.sum()),
        "share_above": _describe_share(above),
        "blank": int(found.is_blank.sum()),
        "blank_above": int((above & found.is_blank).sum()),
        "median": float(np.median(found.similarity)),
        "largest": float(shown.max()) if len(shown) else None,
    }


def describe_own(
    similarity: Floats, rows: int, is_nearest: NDArray[np.bool_], max_similarity: float
) -> dict[str, Any]:
    """Returns how much variations are like the very image that they vary.

    Args:
        similarity: (K,) to the own reference, of the rows whose reference is in the set.
        rows: rows that name a reference.
        is_nearest: (K,) whether no other image of the set is more similar.
        max_similarity: above it a variation counts as a copy.
    """
    found: dict[str, Any] = {"rows": rows, "found": len(similarity)}
    if len(similarity):
        above = similarity > max_similarity
        found |= {
            "above": int(above.sum()),
            "share_above": _describe_share(above),
            "median": float(np.median(similarity)),
            "largest": float(similarity.max()),
            "share_nearest": _describe_share(is_nearest),
        }
    return found


def _describe_share(is_so: NDArray[np.bool_]) -> dict[str, Any]:
    """Wilson's interval: a bootstrap of no case at all would be without width."""
    return _describe(compute_wilson(float(is_so.mean()), len(is_so)))


def _describe(interval: Interval) -> dict[str, Any]:
    return {"value": interval.mean, "low": interval.low, "high": interval.high, "unit": "image"}
