"""Scores of predictions over draws, with a bootstrap over draws and test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.core.stats.intervals import Interval, draw_times, take_percentiles
from factory.core.stats.ranking import measure_auroc
from factory.evaluate.fewshot.settings import METRICS

ROUNDS = 1000
FEW_GROUPS = 5
"""Patients or slides of a class under which images are resampled instead."""

Weights = NDArray[np.float64]
Samples = NDArray[np.float64]
"""(1 + ROUNDS,): the figure itself, then its bootstrap samples."""


@dataclass(frozen=True)
class Resampling:
    """The same resampled draws and test images for every arm, so that arms are paired.

    The rows of both arrays: first everything once, then the rounds. Draws and images are resampled
    independently of each other, as every draw is tested on the same images (the pigeonhole
    bootstrap of Owen 2007, arXiv 0711.1395). Images are resampled within their class, by patient or
    slide where those are known.

    Attributes:
        images: (1 + ROUNDS, N) weights of the test images.
        draws: (1 + ROUNDS, S) weights of the draws, each row summing to 1.
        units: what of the test is resampled.
    """

    images: Weights
    draws: Weights
    units: str


def resample(labels: NDArray[np.int64], groups: Sequence[str | None], draws: int) -> Resampling:
    """Draws the rounds of the bootstrap.

    Args:
        labels: (N,) classes of the test images.
        groups: patient or slide of each, or None.
        draws: number of draws S.
    """
    draw = np.random.default_rng(derive_seed(0, "fewshot", "bootstrap"))
    known = np.array([str(group) for group in groups])
    is_grouped = None not in groups and all(
        len(np.unique(known[labels == name])) >= FEW_GROUPS for name in np.unique(labels)
    )
    places = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    units = [
        np.unique(known[rows] if is_grouped else rows, return_inverse=True)[1] for rows in places
    ]
    ((*times, chosen),) = draw_times(draw, [*(int(u.max()) + 1 for u in units), draws], ROUNDS)
    images = np.ones((1 + ROUNDS, len(labels)))
    for rows, unit, found in zip(places, units, times, strict=True):
        images[1:, rows] = found[:, unit]
    weights = np.concatenate([np.full((1, draws), 1 / draws), chosen / draws])
    return Resampling(images, weights, "patients or slides" if is_grouped else "images")


def score_arm(
    chances: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
    resampling: Resampling,
) -> tuple[dict[str, Samples], dict[str, NDArray[np.float64]]]:
    """Scores one arm.

    Args:
        chances: for each draw (N, C) probabilities of the test images.
        labels: (N,).
        resampling: shared by all arms.

    Returns:
        Metric -> (1 + ROUNDS,) mean over draws, and `recall`, `precision`, `f1` ->
        (1 + ROUNDS, C).
    """
    totals: dict[str, Samples] = {}
    by_class: dict[str, NDArray[np.float64]] = {}
    for number, each in enumerate(chances):
        found, of_class = measure(each, labels, resampling.images)
        weight = resampling.draws[:, number]
        for name, values in found.items():
            totals[name] = totals.get(name, np.zeros(len(weight))) + weight * values
        for name, table in of_class.items():
            before = by_class.get(name, np.zeros(table.shape))
            by_class[name] = before + weight[:, None] * table
    return totals, by_class


def measure(
    chances: NDArray[np.float64], labels: NDArray[np.int64], weights: Weights
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Measures one set of predictions under rows of image weights.

    `auroc` is the mean over classes of one against the rest; F1 and precision of a class that is
    never predicted are 0, as in scikit-learn.

    Args:
        chances: (N, C) probabilities.
        labels: (N,).
        weights: (R, N), every class with some weight in every row.

    Returns:
        Metric -> (R,), and `recall`, `precision`, `f1` -> (R, C).
    """
    classes = chances.shape[1]
    is_class = np.eye(classes)[labels]
    is_said = np.eye(classes)[chances.argmax(axis=1)]
    right = weights @ (is_class * is_said)
    actual, said = weights @ is_class, weights @ is_said
    # The floor is for classes without images, in rows that the caller passes over.
    by_class = {
        "recall": right / np.maximum(actual, 1e-12),
        "precision": right / np.maximum(said, 1e-12),
        "f1": 2 * right / np.maximum(actual + said, 1e-12),
    }
    areas = [
        measure_auroc(chances[:, name], is_class[:, name] > 0, weights) for name in range(classes)
    ]
    values = (
        by_class["recall"].mean(1),
        right.sum(1) / weights.sum(1),
        by_class["f1"].mean(1),
        np.mean(areas, axis=0),
    )
    return dict(zip(METRICS, values, strict=True)), by_class


def to_interval(samples: Samples) -> Interval:
    """Returns the figure with the percentile interval of its samples."""
    return take_percentiles(samples[0], samples[1:])


def pair_arms(scored: Mapping[str, Mapping[str, Samples]], metric: str) -> dict[str, Samples]:
    """Returns `A - B` -> samples: each arm minus both baselines, filtered minus unfiltered."""
    pairs = [
        (arm, base)
        for base in ("real", "real+classical")
        if base in scored
        for arm in scored
        if arm != base
    ]
    both = ("real+synthetic", "real+synthetic_unfiltered")
    pairs += [both] if all(arm in scored for arm in both) else []
    return {f"{a} - {b}": scored[a][metric] - scored[b][metric] for a, b in pairs}
