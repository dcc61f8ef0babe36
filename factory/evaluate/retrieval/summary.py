"""Sums up the arms: means, intervals, paired differences, and what to beware of."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.core.stats.intervals import LEVEL, Interval, draw_times, take_percentiles
from factory.evaluate.retrieval.gallery import Gallery
from factory.evaluate.retrieval.settings import KS, METRICS

Floats = NDArray[np.float64]

_CHUNK = 100
"""Rounds drawn at a time."""

COMPARED = ("synthetic", "real", "shuffled", "untuned")
"""Differences are of an earlier arm minus a later one."""


def summarise_arms(
    results: Mapping[str, Sequence[Mapping[str, Any]]], gallery: Gallery
) -> dict[str, Any]:
    """Returns `arms`, `paired`, `chance` and `by_seed`.

    A query's value is its mean over the seeds. Intervals are of captions and seeds, resampled
    independently of each other, as every seed searches the same captions (the pigeonhole bootstrap
    of Owen 2007, arXiv 0711.1395); the draws are the same for all arms. The queries of one caption
    go together. A few seeds show less than all of their spread: `by_seed` has each.

    Args:
        results: arm -> a result for each seed, with `hits`: metric -> (queries,).
        gallery: what was searched.
    """
    hits = {
        arm: {name: np.array([each["hits"][name] for each in found]) for name in METRICS}
        for arm, found in results.items()
    }
    chance = gallery.find_chance()
    report: dict[str, Any] = {
        "arms": {arm: {} for arm in hits},
        "paired": {
            f"{one} - {other}": {}
            for one, other in combinations([arm for arm in COMPARED if arm in hits], 2)
        },
        "chance": chance,
        "by_seed": {
            arm: {name: _average(values) for name, values in of.items()} for arm, of in hits.items()
        },
    }
    for name in METRICS:
        values, weights = _join([of[name] for of in hits.values()], name, gallery)
        means = dict(zip(hits, resample_means(values, weights).T, strict=True))
        for arm, units in zip(hits, values, strict=True):
            found = take_percentiles(means[arm][0], means[arm][1:])
            report["arms"][arm][name] = _widen(found, units, chance[name]).to_dict()
        for pair, of in report["paired"].items():
            one, other = pair.split(" - ")
            apart = means[one] - means[other]
            of[name] = take_percentiles(apart[0], apart[1:]).to_dict()
    return report


def resample_means(values: Floats, weights: Floats) -> Floats:
    """Returns (1 + ROUNDS, A) means: first of everything once, then of each round's draws.

    Args:
        values: (A, S, U) of each arm, seed and unit.
        weights: (U,) of the units.
    """
    arms, seeds, units = values.shape
    flat = values.reshape(arms * seeds, units).T
    draw = np.random.default_rng(derive_seed(0, "retrieval-bootstrap", seeds, units))
    found = [np.average(values.mean(axis=1), axis=1, weights=weights)[None]]
    for drawn, shares in draw_times(draw, (units, seeds), most=_CHUNK):
        times = drawn * weights
        means = (times @ flat / times.sum(axis=1, keepdims=True)).reshape(-1, arms, seeds)
        found.append((means * (shares / seeds)[:, None]).sum(axis=2))
    return np.concatenate(found)


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


def _join(hits: Sequence[Floats], metric: str, gallery: Gallery) -> tuple[Floats, Floats]:
    """Returns (A, S, U) means of each caption's queries, and (U,) how many it has.

    Args:
        hits: (seeds, queries) of each arm; one seed stands for all where nothing is random.
        metric: one of METRICS.
        gallery: what was searched.
    """
    owner = gallery.units[metric[:3]]
    size = len(gallery.captions)
    counts = np.bincount(owner, minlength=size).astype(np.float64)
    there = counts > 0
    seeds = max(map(len, hits))
    values = np.array(
        [
            [np.bincount(owner, row, size)[there] / counts[there] for row in _repeat(each, seeds)]
            for each in hits
        ]
    )
    return values, counts[there]


def _repeat(rows: Floats, count: int) -> Floats:
    return rows if len(rows) == count else np.repeat(rows, count, axis=0)


def _widen(found: Interval, values: Floats, chance: float) -> Interval:
    """Gives an interval where no query is hit, or every one: all draws are alike then.

    The exact binomial bound stands instead (Clopper and Pearson 1934), unless k reaches the whole
    gallery.
    """
    bound = 1.0 - ((1.0 - LEVEL) / 2) ** (1.0 / values.shape[-1])
    if not values.any():
        return Interval(found.mean, 0.0, bound)
    if (values == 1.0).all() and chance < 1.0:
        return Interval(found.mean, 1.0 - bound, 1.0)
    return found


def _average(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values.mean(axis=1)]
