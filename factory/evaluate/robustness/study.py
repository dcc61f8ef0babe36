"""Dose-response over counterfactual families: the measures, their spread, and its floors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.core.stats.intervals import (
    LEVEL,
    ROUNDS,
    bootstrap_mean,
    compute_wilson,
    draw_rows,
    take_percentiles,
)
from factory.data.family import LOOKS
from factory.data.images import iterate_rows
from factory.evaluate.base import Context
from factory.evaluate.image_sets import ImageSet, list_set
from factory.evaluate.robustness import Robustness
from factory.evaluate.robustness.measures import (
    ATTRIBUTES,
    JPEG,
    compare_pairs,
    list_own,
    measure_pixels,
    spoil,
)
from factory.evaluate.robustness.picture import draw_response
from factory.evaluate.robustness.verdict import judge_alone

LEAST = 5
"""Families that a measure needs."""
COLUMNS = ("family_id", "varied", "value", "seed")


@dataclass(frozen=True, slots=True)
class Kin:
    """All families of one thing varied.

    Attributes:
        values: (V,) in order of the recipe; numbers rise.
        rows: (F, V) positions of their images.
    """

    values: tuple[str, ...]
    rows: NDArray[np.int64]


def measure(settings: Robustness.Settings, context: Context) -> dict[str, Any]:
    """Measures pixels and classifiers over all families.

    Raises:
        InputError: no families, seeds that differ within one, or too few families.
    """
    images = list_set(settings.synthetic, size=settings.size, fit=settings.fit)
    kin = find_families(images)
    grid = context.open_catalogs(settings.catalogs).find_captions(settings.grid)
    context.say(f"measuring {len(images):,} images")
    numbers, predicted = _measure_all(images, settings, context)
    found = {}
    for name, families in kin.items():
        asked = None if (known := grid.measures.get(name)) is None else known.by
        told = _compare_all(
            images, families, numbers, derive_seed(settings.seed, Robustness.kind, name)
        )
        flips = {
            judge: compute_wilson(_count_flips(classes[families.rows]), len(families.rows))
            for judge, classes in predicted.items()
        }
        found[name] = {
            "values": list(families.values),
            "families": len(families.rows),
            "asked": asked,
            "own": list(list_own(name, asked, LOOKS)),
            **told,
            "flips": {judge: share.to_dict() for judge, share in flips.items()},
        }
    tests = sum(each["tested"] for one in found.values() for each in one["measures"].values())
    level = (1 - LEVEL) / max(tests, 1)
    for name, one in found.items():
        for each in one["measures"].values():
            each["moves"] = bool(each["tested"] and each["p"] < level)
        one["alone"] = judge_alone(one["measures"], one["own"], name in LOOKS)
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "response.svg").write_bytes(draw_response(found))
    return {
        "data": [images.describe_data()],
        "synthetic": images.describe(),
        "varied": found,
        "settings": {
            "classifiers": list(settings.classifiers),
            "grid": grid.id,
            "seed": settings.seed,
            "tests": tests,
            "level": level,
            "rounds": ROUNDS,
            "jpeg": JPEG,
        },
    }


def find_families(images: ImageSet) -> dict[str, Kin]:
    """Returns what is varied -> its families, by the columns of the images' rows.

    Raises:
        InputError: no row is of a family, seeds differ within one, or it lacks a value.
    """
    members: dict[str, dict[str, dict[str, int]]] = {}
    seeds: dict[str, set[int]] = {}
    for place, row in enumerate(iterate_rows(images.images, COLUMNS)):
        name = row.get("family_id")
        if name is not None:
            members.setdefault(row["varied"], {}).setdefault(name, {})[row["value"]] = place
            seeds.setdefault(name, set()).add(row["seed"])
    if not members:
        raise InputError(
            f"{images.root}: no row is of a family: give a finished run of a recipe with `vary`"
        )
    apart = sorted(name for name, each in seeds.items() if len(each) > 1)
    if apart:
        raise InputError(f"{images.root}: family {apart[0]}: its images have different seeds")
    found = {}
    for varied, families in members.items():
        values = _order({value: None for each in families.values() for value in each})
        for name, each in families.items():
            if len(each) < len(values):
                raise InputError(f"{images.root}: family {name} of {varied} is not whole")
        if len(families) < LEAST:
            raise InputError(
                f"{images.root}: {len(families)} families of {varied}, at least {LEAST} are "
                "needed: ask for more"
            )
        rows = [[each[value] for value in values] for each in families.values()]
        found[varied] = Kin(values, np.array(rows, np.int64))
    return found


def compare_values(
    numbers: NDArray[np.float64], values: Sequence[str], seed: int
) -> dict[str, Any]:
    """Returns the dose-response of one measure, and whether it is more than chance.

    The floor is the 95th percentile of the spread with the values shuffled within each family,
    which keeps all that families differ in; `p` is its permutation test (Phipson and Smyth 2010,
    Stat. Appl. Genet. Mol. Biol. 9:39). What is the same in all images is not `tested`.

    Args:
        numbers: (F, V) of each family and value; families with a NaN are left out.
        values: (V,) their names.
        seed: of shuffles and intervals.
    """
    whole = numbers[np.isfinite(numbers).all(axis=1)]
    if len(whole) < LEAST:
        nothing = {"mean": None, "low": None, "high": None}
        empty = {"families": len(whole), "response": {}, "spread": 0.0, "floor": 0.0, "p": 1.0}
        return {**empty, "tested": False, "spread_interval": nothing, "shift": nothing}
    draw = np.random.default_rng(seed)
    spread = float(np.ptp(whole.mean(axis=0)))
    shuffled = np.array([np.ptp(draw.permuted(whole, axis=1).mean(axis=0)) for _ in range(ROUNDS)])
    scale = float(whole.std(axis=0, ddof=1).mean()) or 1.0
    shifts = (whole[:, -1] - whole[:, 0]) / scale
    means: list[float] = []
    spreads: list[float] = []
    for rows in draw_rows(draw, len(shifts)):
        means += shifts[rows].mean(axis=1).tolist()
        spreads += np.ptp(whole[rows].mean(axis=1), axis=1).tolist()
    return {
        "families": len(whole),
        "response": {
            value: bootstrap_mean(whole[:, place], seed).to_dict()
            for place, value in enumerate(values)
        },
        "spread": spread,
        "spread_interval": take_percentiles(spread, spreads).to_dict(),
        "floor": float(np.quantile(shuffled, LEVEL)),
        "p": float((1 + (shuffled >= spread - 1e-12).sum()) / (1 + ROUNDS)),
        "tested": bool(np.ptp(whole) > 0),
        "shift": take_percentiles(float(shifts.mean()), means).to_dict(),
    }


def _compare_all(
    images: ImageSet, families: Kin, numbers: Mapping[str, NDArray[np.float64]], seed: int
) -> dict[str, Any]:
    """Returns the response of every measure, its noise, and what of structure stays.

    The noise of a measure of the pixels is what saving as JPEG changes it by in one image, on
    average over the first of each family; `structure` is that of the other images of a family in
    its first, and `kept_by_jpeg` that of the first in its JPEG.
    """
    noise: dict[str, list[NDArray[np.float64]]] = {}
    structure: dict[str, list[NDArray[np.float64]]] = {}
    by_jpeg: dict[str, list[NDArray[np.float64]]] = {}
    for rows in families.rows:
        members = images.read(rows)
        first, others = members[:1], members[1:]
        copy = spoil(first)
        before, after = measure_pixels(first), measure_pixels(copy)
        for name in ATTRIBUTES:
            noise.setdefault(name, []).append(abs(after[name] - before[name]))
        for name, each in compare_pairs(np.repeat(first, len(others), axis=0), others).items():
            structure.setdefault(name, []).append(each)
        for name, each in compare_pairs(first, copy).items():
            by_jpeg.setdefault(name, []).append(each)
    found = {}
    for name, values in numbers.items():
        found[name] = compare_values(values[families.rows], families.values, seed)
        measured = np.concatenate(noise[name]) if name in noise else np.zeros(0)
        measured = measured[np.isfinite(measured)]
        found[name]["noise"] = float(measured.mean()) if len(measured) else None
    return {
        "measures": found,
        "structure": {name: _average(each, seed) for name, each in structure.items()},
        "kept_by_jpeg": {name: _average(each, seed) for name, each in by_jpeg.items()},
    }


def _average(parts: Sequence[NDArray[np.float64]], seed: int) -> dict[str, Any]:
    """Returns the mean over families of the mean within each, with its interval."""
    means = np.array([each[np.isfinite(each)].mean() for each in parts if np.isfinite(each).any()])
    if not len(means):
        return {"mean": None, "low": None, "high": None}
    return bootstrap_mean(means, seed).to_dict()


def _measure_all(
    images: ImageSet, settings: Robustness.Settings, context: Context
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]:
    """Returns measure -> (N,) numbers, and classifier -> (N,) places of the likeliest class."""
    session = context.session
    judges = {name: session.load_classifier(name) for name in settings.classifiers}
    parts: dict[str, list[NDArray[Any]]] = {}
    for block in images.iterate_blocks():
        for name, numbers in measure_pixels(block).items():
            parts.setdefault(name, []).append(numbers)
        for judge, classifier in judges.items():
            found = classifier.predict_probabilities(list(block))
            for place, class_name in enumerate(classifier.class_names):
                parts.setdefault(f"{judge}: {class_name}", []).append(found[:, place])
            parts.setdefault(judge, []).append(found.argmax(axis=1))
    whole = {name: np.concatenate(each) for name, each in parts.items()}
    predicted = {name: whole.pop(name) for name in judges}
    return {name: np.asarray(each, np.float64) for name, each in whole.items()}, predicted


def _count_flips(classes: NDArray[np.int64]) -> float:
    """Returns the share of (F, V) families whose classes are not all the same."""
    return float((classes != classes[:, :1]).any(axis=1).mean())


def _order(values: Mapping[str, None]) -> tuple[str, ...]:
    """Returns values as they come, or rising where all are numbers."""
    try:
        ranks = {value: float(value) for value in values}
    except ValueError:
        return tuple(values)
    return tuple(sorted(values, key=ranks.__getitem__))
