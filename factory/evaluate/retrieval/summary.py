"""Sums up the arms: means, intervals over queries, paired differences, and what to beware of."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.intervals import Interval, bootstrap_difference, bootstrap_mean
from factory.evaluate.retrieval.gallery import Gallery
from factory.evaluate.retrieval.settings import KS, METRICS

COMPARED = ("synthetic", "real", "shuffled", "untuned")
"""Differences are of an earlier arm minus a later one."""


def summarise_arms(
    results: Mapping[str, Sequence[Mapping[str, Any]]], gallery: Gallery
) -> dict[str, Any]:
    """Returns `arms`, `paired`, `chance` and `by_seed`.

    A query's value is its mean over the seeds. The intervals are of resampled queries, those of one
    caption together, and say nothing of other seeds: `by_seed` shows how these differ.

    Args:
        results: arm -> a result for each seed, with `hits`: metric -> (queries,).
        gallery: what was searched.
    """
    hits = {
        arm: {name: np.array([each["hits"][name] for each in found]) for name in METRICS}
        for arm, found in results.items()
    }
    pairs = combinations([arm for arm in COMPARED if arm in hits], 2)
    return {
        "arms": {
            arm: {name: _estimate(of[name], None, name, gallery).to_dict() for name in METRICS}
            for arm, of in hits.items()
        },
        "paired": {
            f"{one} - {other}": {
                name: _estimate(hits[one][name], hits[other][name], name, gallery).to_dict()
                for name in METRICS
            }
            for one, other in pairs
        },
        "chance": gallery.find_chance(),
        "by_seed": {
            arm: {name: _average(values) for name, values in of.items()} for arm, of in hits.items()
        },
    }


def write_notes(report: Mapping[str, Any], is_random: bool, alike: int) -> list[str]:
    """Returns what a reader must know beside the figures."""
    settings, gallery = report["settings"], report["gallery"]
    notes = []
    if is_random:
        notes.append(
            "the model starts from random weights: this says whether captions tell their images "
            "apart, not what a pretrained model would gain"
        )
    for name in ("synthetic", "real"):
        given = settings[name]
        if given is not None and given["pairs"] > settings["pairs"]:
            notes.append(
                f"{settings['pairs']:,} of {given['pairs']:,} {name} pairs are trained on, as many "
                "as every arm has or --pairs allows"
            )
    if sum(report["dropped"].values()):
        told = ", ".join(
            f"{key.replace('_', ' ')} {n}" for key, n in report["dropped"].items() if n
        )
        notes.append(
            f"{sum(report['dropped'].values()):,} of {settings['held_out']['pairs']:,} held-out "
            f"pairs are known from training and were dropped ({told})"
        )
    for what, size in (("I2T", gallery["captions"]), ("T2I", gallery["images"])):
        whole = [f"R@{k}" for k in KS if k >= size]
        if whole:
            notes.append(f"{what} {', '.join(whole)}: the gallery has {size}, so it is 1 always")
    if alike:
        notes.append(
            f"{alike:,} captions have the same tokens as another, cut off where they differ: "
            "searching cannot tell them apart"
        )
    return [*notes, *_compare_with_chance(report)]


def _compare_with_chance(report: Mapping[str, Any]) -> list[str]:
    """Notes where the control arms are off chance with the interval clear, and why that can be."""
    notes, chance = [], report["chance"]
    for arm in ("untuned", "shuffled"):
        found = report["arms"].get(arm, {})
        above = [name for name in found if found[name]["low"] > chance[name]]
        below = [name for name in found if found[name]["high"] < chance[name]]
        if above and arm == "shuffled":
            notes.append(
                f"shuffled is above chance ({', '.join(above)}): captions that repeat unevenly can "
                "be guessed without the image; compare with shuffled rather than with chance"
            )
        if below:
            notes.append(
                f"{arm} is below chance ({', '.join(below)}): it returns the same few entries, or "
                "images that look alike, for many queries; a random order does not"
            )
    return notes


def _estimate(
    first: NDArray[np.float64], second: NDArray[np.float64] | None, metric: str, gallery: Gallery
) -> Interval:
    """Returns mean and interval of (seeds, queries) hits, or of the difference of two of them."""
    units = gallery.units[metric[:3]]
    sizes = np.bincount(units, minlength=len(gallery.captions))
    there = np.flatnonzero(sizes)
    means = [
        (np.bincount(units, each.mean(axis=0), len(gallery.captions))[there] / sizes[there])
        for each in (first, second)
        if each is not None
    ]
    if len(means) == 1:
        return bootstrap_mean(means[0], weights=sizes[there].astype(float))
    return bootstrap_difference(means[0], means[1], weights=sizes[there].astype(float))


def _average(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in values.mean(axis=1)]
