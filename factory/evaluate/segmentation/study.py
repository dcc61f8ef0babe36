"""Measures segmentation: the arms, what they find on test images, and intervals."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError, InputError
from factory.core.hashing import derive_seed
from factory.core.metrics.segments import compute_aji, match_objects, measure_overlaps
from factory.core.stats.intervals import LEVEL, draw_times, take_percentiles
from factory.core.stats.resampling import Groups, name_unit, number_groups
from factory.data.images.image import Wanted
from factory.data.objects import find_objects
from factory.evaluate.base import Context
from factory.evaluate.cells import Cell, CellStore
from factory.evaluate.segmentation import ARMS, METRICS, NETWORK_MULTIPLE, Segmentation
from factory.evaluate.segmentation.pairs import MaskedSet, Reading, read_masked, refuse_shared
from factory.evaluate.segmentation.segmenter import DESCRIPTION, Segmenter
from factory.filters.mask_agreement import compute_dice

ROUNDS = 1000
PLACES = ("real", "masks", "test", "test_masks")
"""Settings that name the real sets."""
LEAST = 4
"""Images of each side under which nothing is measured."""

Floats = NDArray[np.float64]
Samples = Mapping[str, Floats]
"""Metric -> (1 + ROUNDS,): the figure itself, then its bootstrap samples."""


def measure(settings: Segmentation.Settings, context: Context) -> dict[str, Any]:
    """Trains every arm and measures it.

    Raises:
        InputError: sets that do not fit, or share images, patients or masks with the test.
        SourceError: an image or mask that cannot be read.
        EvaluationError: too few images, or a training that diverged.
    """
    if settings.size % NETWORK_MULTIPLE:
        raise InputError(f"--size: must be a multiple of {NETWORK_MULTIPLE}, got {settings.size}")
    real, synthetic, test = _read_sides(settings, context)
    store = CellStore(settings.out)
    data = [each.images.describe_data() for each in (synthetic, real, test)]
    described = settings.model_dump(mode="json", exclude={"out", "device"})
    training = {k: v for k, v in described.items() if k not in (*PLACES, "kind", "synthetic")}
    masks = [each.digest for each in (synthetic, real, test)]
    store.begin({"data": data, "masks": masks, "network": DESCRIPTION, **training})
    tables = {arm: _run_arm(arm, (real, synthetic, test), settings, store, context) for arm in ARMS}
    groups = number_groups(test.groups)
    scored = _resample(tables, groups, settings.seed)
    return {
        "data": data,
        "arms": {
            arm: {**_show(scored[arm]), "images": len(_choose(arm, real, synthetic)[0])}
            for arm in ARMS
        },
        "paired": {
            f"{arm} - real": _show(_combine(scored[arm], scored["real"], np.subtract))
            for arm in ARMS[1:]
        },
        "share": {"synthetic / real": _show(_divide(scored["synthetic"], scored["real"]))},
        "by_seed": {arm: _list_seeds(table) for arm, table in tables.items()},
        "test": {
            "images": len(test),
            "groups": None if groups is None else int(groups.max()) + 1,
            "objects": int(sum(each.max() for each in test.objects)),
            "unit": name_unit(groups),
        },
        "warnings": _find_warnings(groups, test),
        "settings": {
            "network": DESCRIPTION,
            **training,
            **{name: described[name] for name in PLACES},
            "level": LEVEL,
            "rounds": ROUNDS,
        },
    }


def _read_sides(
    settings: Segmentation.Settings, context: Context
) -> tuple[MaskedSet, MaskedSet, MaskedSet]:
    reading = Reading(settings.size, settings.fit, settings.values, settings.ids)
    wanted = Wanted(
        settings.image_column, group=settings.group_column, pattern=settings.group_pattern
    )
    context.say("reading images and masks")
    real = read_masked(settings.real, settings.masks, reading, wanted)
    test = read_masked(settings.test, settings.test_masks, reading, wanted)
    synthetic = read_masked(settings.synthetic, None, reading)
    least = min(len(real), len(test), len(synthetic))
    if least < LEAST:
        raise EvaluationError(f"{least} images of one side: {LEAST} of each are the least")
    for side in (real, test, synthetic):
        if not side.is_object.any():
            raise EvaluationError(f"{side.images.root}: no mask marks anything: see --ids")
    for side in (real, synthetic):
        refuse_shared(side, test)
    return real, synthetic, test


def _choose(
    arm: str, real: MaskedSet, synthetic: MaskedSet
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns pixels, masks and which of them are synthetic."""
    parts = arm.split("+")
    sides = [side for name, side in (("real", real), ("synthetic", synthetic)) if name in parts]
    is_synthetic = [np.full(len(side), side is synthetic) for side in sides]
    return (
        np.concatenate([side.pixels for side in sides]),
        np.concatenate([side.is_object for side in sides]),
        np.concatenate(is_synthetic),
    )


def _run_arm(
    arm: str,
    sides: tuple[MaskedSet, MaskedSet, MaskedSet],
    settings: Segmentation.Settings,
    store: CellStore,
    context: Context,
) -> Floats:
    """Returns (seeds, images, metrics, 2): what metrics are of, and are divided by."""
    real, synthetic, test = sides
    train = _choose(arm, real, synthetic)
    segmenter, found = Segmenter(settings), []
    for number in range(settings.seeds):
        label, identity = f"{arm}-{number}", {"arm": arm, "seed": number}
        cell = store.read(label, identity)
        if cell is None:
            began = time.monotonic()
            seed = derive_seed(settings.seed, "segmentation", number)
            predicted = segmenter.fit_predict(*train, test.pixels, seed)
            scores = np.stack([_score(test, row, mask) for row, mask in enumerate(predicted)])
            cell = Cell(scores.reshape(len(scores), -1), time.monotonic() - began)
            store.write(label, identity, cell)
        context.say(f"{arm}, seed {number}: {cell.seconds:.0f} s")
        found.append(cell.chances.reshape(len(test), len(METRICS), 2))
    return np.stack(found)


def _score(test: MaskedSet, row: int, mask: NDArray[np.bool_]) -> Floats:
    """Returns (metrics, 2) of an image: dividend and divisor."""
    objects = find_objects(mask.astype(np.uint8), has_instances=False).labels
    overlaps = measure_overlaps(test.objects[row], objects)
    panoptic = match_objects(overlaps)
    dice = compute_dice(test.is_object[row], mask)
    return np.array([(dice, 1), (compute_aji(overlaps), 1), (panoptic.iou, panoptic.weight)])


def _resample(tables: Mapping[str, Floats], groups: Groups, seed: int) -> dict[str, Samples]:
    """Resamples seeds and patients (or images) apart from each other, the same for every arm.

    The pigeonhole bootstrap of Owen 2007, arXiv 0711.1395, as every seed is tested on all images.
    """
    seeds, images = next(iter(tables.values())).shape[:2]
    units = np.arange(images) if groups is None else groups
    count = int(units.max()) + 1
    draw = np.random.default_rng(derive_seed(seed, "segmentation", "bootstrap"))
    ((drawn, chosen),) = draw_times(draw, (count, seeds), ROUNDS)
    by_unit = np.concatenate([np.ones((1, count), np.int64), drawn]).astype(np.float64)
    by_seed = np.concatenate([np.ones((1, seeds), np.int64), chosen]).astype(np.float64)
    found: dict[str, Samples] = {}
    for arm, table in tables.items():
        sums = np.zeros((count, seeds, *table.shape[2:]))
        np.add.at(sums, units, table.swapaxes(0, 1))
        totals = np.einsum("ru,rs,usmk->rmk", by_unit, by_seed, sums)
        ratios = totals[..., 0] / np.maximum(totals[..., 1], 1e-12)
        found[arm] = dict(zip(METRICS, ratios.T, strict=True))
    return found


def _combine(one: Samples, other: Samples, by: Any) -> Samples:
    return {name: by(one[name], other[name]) for name in METRICS}


def _divide(one: Samples, other: Samples) -> Samples:
    return {name: one[name] / np.maximum(other[name], 1e-12) for name in METRICS}


def _show(samples: Samples) -> dict[str, Any]:
    return {
        name: take_percentiles(values[0], values[1:]).to_dict() for name, values in samples.items()
    }


def _list_seeds(table: Floats) -> dict[str, list[float]]:
    """Returns each metric of each seed."""
    totals = table.sum(1)
    ratios = totals[..., 0] / np.maximum(totals[..., 1], 1e-12)
    return {name: ratios[:, place].tolist() for place, name in enumerate(METRICS)}


def _find_warnings(groups: Groups, test: MaskedSet) -> list[str]:
    if groups is not None:
        return []
    known = len({each for each in test.groups if each is not None})
    return [
        f"{known} patients or slides of the test are known, so that images are resampled: "
        "intervals are too narrow where images of one patient are alike"
    ]
