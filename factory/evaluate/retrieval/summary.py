"""Sums up the arms: means, intervals over queries, paired differences, and what to beware of."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.intervals import LEVEL, Interval, bootstrap_difference, bootstrap_mean
from factory.evaluate.retrieval.gallery import Gallery
from factory.evaluate.retrieval.settings import KS, METRICS

Floats = NDArray[np.float64]

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
    chance = gallery.find_chance()
    units = {
        arm: {name: _join(of[name], name, gallery) for name in METRICS} for arm, of in hits.items()
    }
    return {
        "arms": {
            arm: {name: _estimate(*of[name], chance[name]).to_dict() for name in METRICS}
            for arm, of in units.items()
        },
        "paired": {
            f"{one} - {other}": {
                name: bootstrap_difference(
                    units[one][name][0], units[other][name][0], weights=units[one][name][1]
                ).to_dict()
                for name in METRICS
            }
            for one, other in combinations([arm for arm in COMPARED if arm in units], 2)
        },
        "chance": chance,
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


def _join(hits: Floats, metric: str, gallery: Gallery) -> tuple[Floats, Floats]:
    """Returns mean and number of the queries of each caption, from (seeds, queries) hits."""
    units = gallery.units[metric[:3]]
    sizes = np.bincount(units, minlength=len(gallery.captions))
    there = np.flatnonzero(sizes)
    sums = np.bincount(units, hits.mean(axis=0), len(gallery.captions))
    return sums[there] / sizes[there], sizes[there].astype(np.float64)


def _estimate(means: Floats, weights: Floats, chance: float) -> Interval:
    """Returns mean and interval.

    Where no query is hit, or every one, resampled queries are all alike: the exact binomial bound
    (Clopper and Pearson 1934) stands instead, unless k reaches the whole gallery.
    """
    found = bootstrap_mean(means, weights=weights)
    bound = 1.0 - ((1.0 - LEVEL) / 2) ** (1.0 / len(means))
    if not means.any():
        return Interval(found.mean, 0.0, bound)
    if (means == 1.0).all() and chance < 1.0:
        return Interval(found.mean, 1.0 - bound, 1.0)
    return found


def _average(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values.mean(axis=1)]
