"""Measures a translation: what is read of every pair, and the figures of each channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError, InputError
from factory.core.hashing import derive_seed
from factory.core.metrics import measure_psnr, measure_ssim
from factory.core.stats.correlation import bootstrap_pearson, draw_weights, permute_pearson
from factory.core.stats.intervals import take_percentiles
from factory.core.stats.ranking import measure_auroc
from factory.core.stats.resampling import Groups, bootstrap_groups, name_unit, number_groups
from factory.data.channel_files import name_key
from factory.data.channels import Values
from factory.data.label_maps import decode_labels
from factory.evaluate.base import Context
from factory.evaluate.measured import describe_data
from factory.evaluate.translation import Translation
from factory.evaluate.translation.pairs import (
    LEAST,
    RGB,
    Place,
    Side,
    find_unused,
    list_masks,
    list_side,
    read_places,
)

AUC_ROUNDS = 200
MOST_NUCLEI = 20_000
"""Nuclei that the AUROC is measured on, at most, drawn by the seed."""
BINS = 256
WINDOW = 11
"""px, of SSIM."""

Floats = NDArray[np.float64]
Metric = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """What was read of every pair: (N, C) each; of nuclei (M, C) with the pair of each (M,)."""

    predicted: list[Floats] = field(default_factory=list)
    target: list[Floats] = field(default_factory=list)
    ssim: dict[str, list[Floats]] = field(default_factory=dict)
    psnr: dict[str, list[Floats]] = field(default_factory=dict)
    nuclei: list[tuple[Floats, Floats]] = field(default_factory=list)


def measure(settings: Translation.Settings, context: Context) -> dict[str, Any]:
    """Measures all pairs.

    Raises:
        InputError: sides, tables or masks that do not fit.
        SourceError: a file that cannot be read.
        EvaluationError: too few pairs.
    """
    predicted = list_side(settings.predicted, settings.sources)
    target = list_side(settings.target)
    keys = sorted(predicted.items.keys() & target.items.keys())
    passed = {"only predicted": len(predicted.items) - len(keys)}
    passed["only target"] = len(target.items) - len(keys)
    passed |= predicted.passed_over
    if len(keys) < LEAST:
        raise EvaluationError(
            f"{len(keys)} pairs of {settings.predicted} and {settings.target}: files of one name "
            f"are a pair, and {LEAST} are the least"
        )
    places = read_places(settings.table, keys, settings.group_pattern)
    masks = list_masks(settings.masks, keys)
    context.say(f"{len(keys):,} pairs; the targets first, for the span of each channel")
    spans, means, names = _survey(target, keys, places, settings.channels or predicted.names)
    context.say("SSIM, PSNR and means of each pair")
    seen = _read_pairs((predicted, target), keys, spans, means, (masks, settings.seed))
    groups = number_groups([places[key].patient for key in keys])
    found: dict[str, dict[str, Metric]] = {}
    controls: dict[str, dict[str, dict[str, Metric]]] = {}
    for place, name in enumerate(names):
        figures = _Figures(seen, place, groups, [places[key] for key in keys], settings.seed)
        found[name], controls[name] = figures.measure(name)
    patients = {places[key].patient for key in keys} - {None}
    slides = {(places[key].patient, places[key].slide) for key in keys if places[key].slide}
    files = [each for each in target.files if name_key(each.relative_to(settings.target)) in keys]
    return {
        "data": [
            describe_data(settings.predicted, predicted.files, len(predicted.items)),
            describe_data(settings.target, files, len(keys)),
        ],
        "channels": found,
        "controls": controls,
        "pairs": {
            "pairs": len(keys),
            "groups": len(patients),
            "slides": len(slides),
            "nuclei": sum(len(each) for each, _ in seen.nuclei),
        },
        "passed_over": passed,
        "warnings": [
            *(f"{n:,} images {what}: passed over" for what, n in passed.items() if n),
            *find_unused(places.values(), names, has_masks=masks is not None),
        ],
        "settings": {
            "target": str(settings.target),
            "seed": settings.seed,
            "unit": name_unit(groups),
            "spans": dict(zip(names, spans.tolist(), strict=True)),
        },
    }


def _survey(
    target: Side, keys: Sequence[str], places: Mapping[str, Place], named: Sequence[str]
) -> tuple[Floats, dict[str, Floats], tuple[str, ...]]:
    """Returns the span of each channel, the mean image's values for each key, and the names.

    The mean image of a pair is the mean of the targets of other patients, or of all other pairs
    where no patients are known.
    """
    sums: list[Floats] = []
    lows: list[Floats] = []
    highs: list[Floats] = []
    for key in keys:
        values = target.items[key]().astype(np.float64)
        if sums and values.shape[0] != len(sums[0]):
            raise InputError(f"{key}: {len(values)} channels, others have {len(sums[0])}")
        if not np.isfinite(values).all():
            raise InputError(f"{key}: the target has values that are not finite: leave it out")
        sums.append(values.mean((1, 2)))
        lows.append(values.min((1, 2)))
        highs.append(values.max((1, 2)))
    means = np.stack(sums)
    count = means.shape[1]
    names = tuple(named) or (RGB if count == 3 else tuple(f"channel {n}" for n in range(count)))
    if len(names) != count:
        raise InputError(f"--channels: {len(names)} names, the targets have {count} channels")
    if len(set(names)) < count:
        raise InputError(f"--channels: {', '.join(names)}: a name stands twice: give each its own")
    units = [places[key].patient or key for key in keys]
    if len(set(units)) < 2:
        units = list(keys)
    found = {}
    for unit in set(units):
        others = np.array([each != unit for each in units])
        found[unit] = means[others].mean(0)
    spans = np.max(highs, axis=0) - np.min(lows, axis=0)
    return spans, {key: found[unit] for key, unit in zip(keys, units, strict=True)}, names


def _read_pairs(
    sides: tuple[Side, Side],
    keys: Sequence[str],
    spans: Floats,
    means: Mapping[str, Floats],
    how: tuple[Mapping[str, Any] | None, int],
) -> Seen:
    """Reads every pair once, and the prediction of the pair that `shuffled` puts in its place."""
    (predicted, target), (masks, seed) = sides, how
    order = np.random.default_rng(derive_seed(seed, "shuffled")).permutation(len(keys))
    other = {keys[a]: keys[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    seen = Seen()
    for key in keys:
        made, real = predicted.items[key](), target.items[key]()
        if made.shape != real.shape:
            raise InputError(
                f"{key}: predicted {made.shape}, target {real.shape}: bring them to one size"
            )
        if not np.isfinite(made).all():
            raise InputError(f"{key}: the prediction has values that are not finite")
        seen.predicted.append(made.mean((1, 2), dtype=np.float64))
        seen.target.append(real.mean((1, 2), dtype=np.float64))
        flat = np.broadcast_to(means[key][:, None, None], real.shape)
        swapped = predicted.items[other[key]]()
        for name, image in (("", made), ("mean image", flat), ("shuffled", swapped)):
            is_alike = image.shape == real.shape
            scores = _compare(image, real, spans) if is_alike else np.full((2, len(real)), np.nan)
            seen.ssim.setdefault(name, []).append(scores[0])
            seen.psnr.setdefault(name, []).append(scores[1])
        if masks is not None:
            seen.nuclei.append(_measure_nuclei(made, real, masks[key]))
    return seen


def _compare(one: Values, other: Values, spans: Floats) -> Floats:
    """Returns (2, C): SSIM and PSNR of each channel; NaN of a channel that never varies.

    SSIM is NaN of images that its window does not fit in, too.
    """
    found = []
    for a, b, span in zip(one, other, spans.tolist(), strict=True):
        ssim = measure_ssim(a, b, span) if span and min(a.shape) >= WINDOW else np.nan
        found.append((ssim, min(measure_psnr(a, b, span), 100.0) if span else np.nan))
    return np.array(found, np.float64).T


def _measure_nuclei(made: Values, real: Values, path: Any) -> tuple[Floats, Floats]:
    """Returns (M, C) means of predicted and real values in each nucleus of a map."""
    labels = decode_labels(path.read_bytes(), str(path)).astype(np.int64)
    if labels.shape != real.shape[1:]:
        raise InputError(f"{path}: {labels.shape} px, its images {real.shape[1:]}")
    sizes = np.bincount(labels.ravel())
    present = np.flatnonzero(sizes)
    present = present[present > 0]
    found = []
    for values in (made, real):
        sums = [np.bincount(labels.ravel(), plane.ravel().astype(np.float64)) for plane in values]
        found.append((np.stack(sums, 1)[present] / sizes[present, None]).astype(np.float64))
    return found[0], found[1]


class _Figures:
    """The figures of one channel."""

    def __init__(
        self, seen: Seen, channel: int, groups: Groups, places: Sequence[Place], seed: int
    ) -> None:
        self.seen, self.channel, self.groups = seen, channel, groups
        self.places, self.seed = places, seed
        units = [place.patient or f"\0{row}" for row, place in enumerate(places)]
        self.patients = np.unique(units, return_inverse=True)[1]
        self.predicted = np.stack(seen.predicted)[:, channel]
        self.target = np.stack(seen.target)[:, channel]

    def measure(self, name: str) -> tuple[dict[str, Metric], dict[str, dict[str, Metric]]]:
        """Returns the metrics, and those of each control."""
        found: dict[str, Metric] = {}
        controls: dict[str, dict[str, Metric]] = {"mean image": {}, "shuffled": {}}
        found["pearson_patch"] = self._correlate(self.predicted, self.target)
        order = np.random.default_rng(derive_seed(self.seed, "shuffled")).permutation(
            len(self.target)
        )
        swapped = np.empty_like(self.predicted)
        swapped[order] = self.predicted[np.roll(order, 1)]
        controls["shuffled"]["pearson_patch"] = self._correlate(swapped, self.target)
        slides = [place.slide for place in self.places]
        if all(slides):
            found["pearson_slide"] = self._correlate_slides(slides)
        for key, table in (("ssim", self.seen.ssim), ("psnr", self.seen.psnr)):
            for control, rows in table.items():
                metric = self._average(np.stack(rows)[:, self.channel])
                (controls[control] if control else found)[key] = metric
        found |= self._tell_positive() if self.seen.nuclei else self._tell_labels(name)
        return found, controls

    def _correlate(self, x: Floats, y: Floats, rows: NDArray[Any] | None = None) -> Metric:
        """Correlates (N,) means, those of the pairs `rows` (all by default).

        The permutation keeps to patients even where there are too few for an interval over them.
        """
        chosen = np.arange(len(self.target)) if rows is None else rows
        groups = None if self.groups is None else self.groups[chosen]
        found = bootstrap_pearson(x, y, groups, self.seed)
        if found is None:
            return {"value": None, "refused": "fewer than 3, or all alike"}
        value = {"value": found.mean, "low": found.low, "high": found.high}
        return {**value, "p": permute_pearson(x, y, self.patients[chosen], self.seed)}

    def _correlate_slides(self, slides: Sequence[str | None]) -> Metric:
        named = [
            f"{patient}\0{slide}" for patient, slide in zip(self.patients, slides, strict=True)
        ]
        names, numbers = np.unique(named, return_inverse=True)
        counts = np.bincount(numbers)
        x = np.bincount(numbers, self.predicted) / counts
        y = np.bincount(numbers, self.target) / counts
        first = np.unique(numbers, return_index=True)[1]
        return {**self._correlate(x, y, first), "slides": len(names)}

    def _average(self, values: Floats) -> Metric:
        known = np.isfinite(values)
        if not known.any():
            return {"value": None, "refused": f"never varies, or images under {WINDOW} px"}
        groups = None if self.groups is None else self.groups[known]
        found = bootstrap_groups(values[known], groups, self.seed)
        return {"value": found.mean, "low": found.low, "high": found.high}

    def _tell_positive(self) -> dict[str, Metric]:
        """Returns the share of positive nuclei, and how well predictions tell positive ones.

        A nucleus is positive where its mean lies above Otsu's threshold of all real nuclei's means.
        """
        owners = np.repeat(np.arange(len(self.seen.nuclei)), [len(a) for a, _ in self.seen.nuclei])
        made = np.concatenate([each[:, self.channel] for each, _ in self.seen.nuclei])
        real = np.concatenate([each[:, self.channel] for _, each in self.seen.nuclei])
        if len(real) < LEAST or np.ptp(real) == 0:
            return {}
        limit = find_otsu(real)
        counts = np.bincount(owners, minlength=len(self.target))
        has = counts > 0
        shares = [
            np.bincount(owners, values > limit, len(self.target))[has] / counts[has]
            for values in (made, real)
        ]
        share = self._correlate(shares[0], shares[1], np.flatnonzero(has))
        share |= {"threshold": limit, "predicted": float((made > limit).mean())}
        share |= {"real": float((real > limit).mean())}
        return {
            "positive_share": share,
            "auroc": self._rank(made, real > limit, owners),
        }

    def _tell_labels(self, name: str) -> dict[str, Metric]:
        rows = [row for row, place in enumerate(self.places) if name in place.labels]
        hits = np.array([self.places[row].labels[name] for row in rows], bool)
        if len(rows) < LEAST or hits.all() or not hits.any():
            return {}
        return {"auroc": self._rank(self.predicted[rows], hits, np.array(rows))}

    def _rank(self, scores: Floats, is_hit: NDArray[np.bool_], owners: NDArray[np.int64]) -> Metric:
        """Returns the AUROC with its interval over groups, or images without any."""
        if len(scores) > MOST_NUCLEI:
            draw = np.random.default_rng(derive_seed(self.seed, "nuclei"))
            chosen = np.sort(draw.choice(len(scores), MOST_NUCLEI, replace=False))
            scores, is_hit, owners = scores[chosen], is_hit[chosen], owners[chosen]
        weights = draw_weights(len(self.target), self.groups, self.seed, AUC_ROUNDS)[:, owners]
        value = float(measure_auroc(scores, is_hit, np.ones((1, len(scores))))[0])
        has_both = (weights[:, is_hit].sum(1) > 0) & (weights[:, ~is_hit].sum(1) > 0)
        found = take_percentiles(value, measure_auroc(scores, is_hit, weights[has_both]))
        told = {"value": found.mean, "low": found.low, "high": found.high}
        return {**told, "n": len(scores), "positive": int(is_hit.sum())}


def find_otsu(values: Floats) -> float:
    """Returns the threshold that parts values best: Otsu 1979 (IEEE SMC 9:62), of 256 bins."""
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        between = np.where((below > 0) & (above > 0), below * above * apart**2, -1.0)
    best = np.flatnonzero(between == between.max())
    return float(edges[1 + int(best[len(best) // 2])])
