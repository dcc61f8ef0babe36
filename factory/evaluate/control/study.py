"""Attribute control: do images show what their captions ask for? Measured in the pixels."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import bin_attributes
from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.core.stains import measure_attributes
from factory.core.stats.intervals import LEVEL, ROUNDS, draw_rows, take_percentiles
from factory.evaluate.base import Context
from factory.evaluate.control import Control
from factory.evaluate.image_sets import ImageSet, list_set

LEAST = 12
"""Images that an attribute needs to be scored."""


def measure(settings: Control.Settings, context: Context) -> dict[str, Any]:
    """Measures every attribute that the grid can measure."""
    images = list_set(settings.synthetic, size=settings.size, fit=settings.fit)
    grid = context.open_catalogs(settings.catalogs).find_captions(settings.grid)
    return evaluate_control(images, grid, settings.seed, context.say)


@dataclass(frozen=True, slots=True)
class Answers:
    """What captions ask of one attribute, and what is there.

    Attributes:
        asked: (N,) ranks of the asked values, 0 the lowest.
        seen: (N,) ranks of the values that the images measure.
        numbers: (N,) the measure itself.
    """

    asked: NDArray[np.int64]
    seen: NDArray[np.int64]
    numbers: NDArray[np.float64]


def evaluate_control(
    images: ImageSet, grid: CaptionGrid, seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures how far attributes follow captions, for every attribute that the grid can measure.

    An image counts for an attribute whose wording stands in its caption (the longest wording wins;
    two values of one attribute in one caption: neither counts) and whose measure is defined.
    `rho` is Spearman's between asked rank and measure; `within_one_bin` and `same_bin` are shares;
    `if_ignored` are those shares when captions are paired with images at random, in expectation.
    Intervals are bootstrap over images. `exceeds_chance` says that rho's interval lies above 0.

    Args:
        images: with captions, any source.
        grid: with `measures`.
        seed: of the intervals.
        say: is told what is being done.

    Raises:
        InputError: no captions, none that the grid can read, or a grid that measures nothing.
    """
    if not grid.measures:
        raise InputError(f"caption grid {grid.id} measures nothing: name one with `measures`")
    rows = [row for row, caption in enumerate(images.captions) if caption]
    if not rows:
        raise InputError(f"{images.root}: no image has a caption: give captioned images")
    asked = [read_values(grid, str(images.captions[row])) for row in rows]
    say(f"measuring {len(rows):,} images")
    chosen = images.take(rows)
    blocks = [measure_attributes(block) for block in chosen.iterate_blocks()]
    measured = {name: np.concatenate([each[name] for each in blocks]) for name in blocks[0]}
    seen = bin_attributes(grid, measured)
    found = {}
    for name in grid.measures:
        answers = _pair(grid, name, asked, seen, measured[grid.measures[name].by])
        if len(answers.asked) >= LEAST and len(np.unique(answers.asked)) > 1:
            found[name] = score_answers(answers, derive_seed(seed, "control", name))
    if not found:
        raise InputError(
            f"{images.root}: captions say nothing that {grid.id} measures (or fewer than {LEAST} "
            "images do for each attribute): give the grid that they were written with"
        )
    return {
        "data": [images.describe_data()],
        "synthetic": images.describe(),
        "attributes": found,
        "not_asked": sorted(set(grid.measures) - set(found)),
        "settings": {"grid": grid.id, "seed": seed, "level": LEVEL, "rounds": ROUNDS},
    }


def read_values(grid: CaptionGrid, caption: str) -> dict[str, str]:
    """Returns attribute -> value that a caption asks for, by the grid's own wordings."""
    text = caption.casefold()
    found: dict[str, str] = {}
    for name in grid.measures:
        wordings = [
            (wording.casefold(), value)
            for value, known in grid.attributes[name].items()
            for wording in (known or (value,))
        ]
        left, values = text, set()
        for wording, value in sorted(wordings, key=lambda each: -len(each[0])):
            pattern = rf"(?<!\w){re.escape(wording)}(?!\w)"
            left, count = re.subn(pattern, " ", left)
            if count:
                values.add(value)
        if len(values) == 1:
            found[name] = values.pop()
    return found


def score_answers(answers: Answers, seed: int) -> dict[str, Any]:
    """Returns rho and shares with intervals, and what ignoring the captions would give."""
    draw = np.random.default_rng(seed)
    count = len(answers.asked)
    samples = np.concatenate([*draw_rows(draw, count)])
    apart = np.abs(answers.asked - answers.seen)
    bins = np.abs(answers.asked[:, None] - answers.seen[None, :])
    rhos = _correlate(answers.asked[samples], answers.numbers[samples])
    whole = _correlate(answers.asked[None], answers.numbers[None])
    rho = _interval(whole[0], rhos[np.isfinite(rhos)])
    return {
        "images": count,
        "rho": rho,
        "exceeds_chance": bool(rho["low"] > 0),
        "within_one_bin": _interval((apart <= 1).mean(), (apart <= 1)[samples].mean(1)),
        "same_bin": _interval((apart == 0).mean(), (apart == 0)[samples].mean(1)),
        "if_ignored": {
            "within_one_bin": float((bins <= 1).mean()),
            "same_bin": float((bins == 0).mean()),
        },
        "mean_measured": {
            str(rank): float(answers.numbers[answers.asked == rank].mean())
            for rank in np.unique(answers.asked)
        },
    }


def _pair(
    grid: CaptionGrid,
    name: str,
    asked: Sequence[dict[str, str]],
    seen: Sequence[dict[str, str]],
    numbers: NDArray[np.floating],
) -> Answers:
    values = tuple(grid.attributes[name])
    rows = [row for row in range(len(asked)) if name in asked[row] and name in seen[row]]
    return Answers(
        np.array([values.index(asked[row][name]) for row in rows], np.int64),
        np.array([values.index(seen[row][name]) for row in rows], np.int64),
        np.asarray(numbers, np.float64)[rows],
    )


def _correlate(asked: NDArray[np.int64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns Spearman's rho of each row; NaN where one side is constant."""
    from scipy.stats import ConstantInputWarning, pearsonr, rankdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        found = pearsonr(rankdata(asked, axis=1), rankdata(numbers, axis=1), axis=1)
    return np.asarray(found.statistic)


def _interval(mean: float, resampled: NDArray[np.floating]) -> dict[str, float]:
    return take_percentiles(mean, resampled).to_dict()
