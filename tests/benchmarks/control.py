"""Does a model follow captions? Asked values of attributes against what its images measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measures import Pixels, Sampler, make_seeds
from numpy.typing import NDArray
from scipy.stats import spearmanr

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import bin_attributes, write_caption
from factory.core.stains import measure_attributes
from factory.data.records import Condition

ATTRIBUTES = ("density", "haematoxylin", "eosin", "size")

FORMS = (
    "A H&E patch of {organ} with {phrase}.",
    "{organ}, H&E, with {phrase}.",
    "Microscopy of {organ} with {phrase}.",
)
"""Sentences that name the organ and one attribute, and nothing else."""

PARAPHRASES = Path(__file__).parent / "paraphrases.yaml"


@dataclass(frozen=True)
class Asked:
    """One caption and what it asks for: `rank` is the value's place, low to high."""

    rank: int
    phrase: str
    caption: str


def measure_control(
    sampler: Sampler, grid: CaptionGrid, organ: str, count: int, per_phrase: int, seed: int
) -> dict[str, Any]:
    """Measures how attributes follow captions, by the catalog's wordings and by others.

    Every image has a seed of its own: with shared noise, ranks would show effects too small to see.

    Args:
        sampler: of a model that takes captions.
        grid: with measures.
        organ: value of the grid's organ to name.
        count: images of each value, by the catalog's wordings.
        per_phrase: images of each paraphrase.
        seed: of the images.
    """
    other = yaml.safe_load(PARAPHRASES.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for name in ATTRIBUTES:
        found[name] = {"measured_by": grid.measures[name].by, "edges": grid.measures[name].edges}
        ways = {
            "wordings": ask_wordings(grid, name, organ, count),
            "paraphrases": ask_paraphrases(other, grid, name, per_phrase),
        }
        values = tuple(grid.attributes[name])
        for way, asked in ways.items():
            seeds = make_seeds(seed, way, name, len(asked))
            numbers, bins = answer(sampler, grid, name, asked, seeds)
            found[name][way] = score(numbers, bins, asked, grid, name)
            found[name][way]["by_phrase"] = score_phrases(numbers, bins, asked, values)
        shifts = [find_shift(found[name][way]["mean_measured"]) for way in ways]
        found[name]["paraphrase_shift_over_wordings"] = (
            round(shifts[1] / shifts[0], 3) if shifts[0] else None
        )
    return found


def ask_wordings(grid: CaptionGrid, name: str, organ: str, count: int) -> list[Asked]:
    """Returns `count` captions of each value: all its wordings in turn, in every form."""
    called = grid.attributes["organ"][organ][0]
    asked = []
    for rank, wordings in enumerate(grid.attributes[name].values()):
        for row in range(count):
            phrase = wordings[row % len(wordings)]
            form = FORMS[(row + row // len(wordings)) % len(FORMS)]
            asked.append(Asked(rank, phrase, form.format(organ=called, phrase=phrase)))
    return asked


def ask_paraphrases(
    other: dict[str, Any], grid: CaptionGrid, name: str, per_phrase: int
) -> list[Asked]:
    """Returns `per_phrase` captions of each phrase, in the held-out forms in turn."""
    forms, values = other["templates"], tuple(grid.attributes[name])
    return [
        Asked(values.index(value), phrase, forms[row % len(forms)].format(phrase=phrase))
        for value, phrases in other["phrases"][name].items()
        for phrase in phrases
        for row in range(per_phrase)
    ]


def answer(
    sampler: Sampler, grid: CaptionGrid, name: str, asked: Sequence[Asked], seeds: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Samples the captions; returns the measured numbers and bins, NaN and -1 without a measure."""
    pixels = sampler.sample([Condition(caption=each.caption) for each in asked], seeds)
    measured = measure_attributes(pixels)
    values = tuple(grid.attributes[name])
    named = [each.get(name) for each in bin_attributes(grid, measured)]
    bins = np.array([-1 if value is None else values.index(value) for value in named])
    return measured[grid.measures[name].by].astype(np.float64), bins


def score(
    numbers: NDArray[np.float64],
    bins: NDArray[np.int64],
    asked: Sequence[Asked],
    grid: CaptionGrid,
    name: str,
) -> dict[str, Any]:
    """Returns rank correlation, means, and shares in the asked bin or next to it.

    `if_ignored` are the shares that these very images would reach by chance: asked and answered
    paired at random. An image without a measure is in no bin. With three values asked equally
    often, the rank correlation reaches at most 0.943, for ties.
    """
    ranks = np.array([each.rank for each in asked])
    known = ~np.isnan(numbers)
    apart = np.where(bins < 0, 9, np.abs(bins - ranks))
    pairs = np.where(bins < 0, 9, np.abs(bins[None] - ranks[:, None]))
    means = [np.nanmean(numbers[ranks == rank]) for rank in range(len(grid.attributes[name]))]
    return {
        "images": len(ranks),
        "without_measure": int((~known).sum()),
        "spearman": round(float(spearmanr(ranks[known], numbers[known]).statistic), 3),
        "mean_measured": {
            value: round(float(mean), 3)
            for value, mean in zip(grid.attributes[name], means, strict=True)
        },
        **share_bins(apart),
        "if_ignored": share_bins(pairs),
    }


def share_bins(apart: NDArray[np.int64]) -> dict[str, float]:
    """Returns the shares of answers at most one bin, and no bin, away from what was asked."""
    near = {"within_one_bin": apart <= 1, "same_bin": apart == 0}
    return {name: round(float(each.mean()), 3) for name, each in near.items()}


def find_shift(means: dict[str, float]) -> float:
    """Returns how far the mean moves from the lowest asked value to the highest."""
    first, *_, last = means.values()
    return last - first


def score_phrases(
    numbers: NDArray[np.float64],
    bins: NDArray[np.int64],
    asked: Sequence[Asked],
    values: Sequence[str],
) -> dict[str, Any]:
    """Returns for each phrase what was asked, the mean measured, and the shares."""
    found = {}
    for phrase in dict.fromkeys(each.phrase for each in asked):
        rows = [row for row, each in enumerate(asked) if each.phrase == phrase]
        rank, mine = asked[rows[0]].rank, bins[rows]
        found[phrase] = {
            "asked": values[rank],
            "mean_measured": round(float(np.nanmean(numbers[rows])), 3),
            **share_bins(np.where(mine < 0, 9, np.abs(mine - rank))),
        }
    return found


def caption_images(
    grid: CaptionGrid, pixels: Pixels, facts: dict[str, str], seed: int
) -> list[str]:
    """Writes a caption for each image from what is measured in it and what is known of all.

    Args:
        grid: with measures.
        pixels: (N, S, S, 3) uint8 RGB.
        facts: attribute -> value; only templates that name all of them but the magnification, which
            few do, are used.
        seed: of templates and wordings.
    """
    wanted = facts.keys() - {"magnification"}
    fitting = keep_templates(grid, wanted)
    draw = np.random.default_rng(seed)
    values = bin_attributes(fitting, measure_attributes(pixels))
    return [write_caption(fitting, {**each, **facts}, draw) for each in values]


def keep_templates(grid: CaptionGrid, attributes: set[str]) -> CaptionGrid:
    """Returns a grid of only those templates that name all the attributes."""
    layout = [each for each in grid.layout if attributes <= each.wordings.keys()]
    named = {name for each in layout for name in each.wordings}
    content = grid.model_dump()
    content["templates"] = [each.text for each in layout]
    for part in ("attributes", "measures"):
        content[part] = {name: known for name, known in content[part].items() if name in named}
    return CaptionGrid.model_validate(content)
