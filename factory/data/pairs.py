"""All fidelity metrics of one pair of feature sets, with intervals and reasons where there is none.

A metric is `{"value": x}`, with `low`, `high` and `unit` where there is an interval, or
`{"value": None, "refused": why}`; `flag` says what is wrong with a value that is given by force.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.metrics import Mmd, compare_manifolds, compute_fd, measure_cmmd, measure_kid
from factory.core.stats.intervals import Interval
from factory.core.stats.resampling import (
    Groups,
    bootstrap_groups,
    measure_spread,
    name_unit,
    number_groups,
    pick_halves,
)

NEIGHBOURS = 5
"""k of precision, recall, density and coverage, as Naeem et al. 2020 recommend."""
METRICS = ("fd", "kid", "cmmd", "precision", "recall", "density", "coverage")
LEAST = NEIGHBOURS + 1
"""Images of each side under which nothing is measured."""
Metric = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """(N, D) float64 features of one side, and (N,) patients or slides, None where unknown."""

    values: NDArray[np.float64]
    groups: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.values)


def measure_pair(real: Side, other: Side, force: bool, seed: int, key: str) -> dict[str, Metric]:
    """Measures one pair.

    Args:
        real: the reference.
        other: the synthetic images.
        force: give FD with fewer images than features too, marked.
        seed: of halves and intervals.
        key: tells this pair's draws from those of other pairs.

    Returns:
        Every name of METRICS -> the metric.
    """
    if min(len(real), len(other)) < LEAST:
        why = f"too few images: {len(real)} real, {len(other)} compared; {LEAST} of each wanted"
        return {name: {"value": None, "refused": why} for name in METRICS}
    return {
        "fd": _measure_fd(real, other, force),
        **_measure_kernels(real, other, seed, key),
        **_measure_manifolds(real, other, seed),
    }


def measure_floor(real: Side, parts: Sequence[NDArray[np.bool_]], force: bool) -> dict[str, Metric]:
    """Measures each part of the real images against the rest of them.

    Args:
        real: all real images.
        parts: (N,) masks.
        force: as in `measure_pair`.

    Returns:
        Every name of METRICS -> the mean over the parts; `low` and `high` are the extremes.
    """
    sides = [(_take(real, ~part), _take(real, part)) for part in parts]
    fewest = min(min(len(rest), len(part)) for rest, part in sides)
    if fewest < LEAST:
        why = f"too few images: {fewest} in a part; {LEAST} wanted"
        return {name: {"value": None, "refused": why} for name in METRICS}
    rest_picks, part_picks = ~np.stack(parts), np.stack(parts)
    found: dict[str, Any] = {
        "kid": measure_kid(real.values, real.values, (rest_picks, part_picks)).draws,
        "cmmd": measure_cmmd(real.values, real.values, (rest_picks, part_picks)).biased_draws,
    }
    manifolds = [compare_manifolds(rest.values, part.values, NEIGHBOURS) for rest, part in sides]
    for name in METRICS[3:]:
        found[name] = np.array([getattr(each, name).mean() for each in manifolds])
    unit = f"extremes of {len(parts)} parts"
    described = {
        name: _describe(Interval(float(x.mean()), float(x.min()), float(x.max())), unit)
        for name, x in found.items()
    }
    fds = [_measure_fd(rest, part, force) for rest, part in sides]
    bad = next((fd for fd in fds if fd["value"] is None), None)
    if bad is not None:
        return {"fd": bad, **described}
    values = [fd["value"] for fd in fds]
    interval = Interval(float(np.mean(values)), min(values), max(values))
    flagged = next(({"flag": fd["flag"]} for fd in fds if "flag" in fd), {})
    return {"fd": {**_describe(interval, unit), **flagged}, **described}


def _take(side: Side, mask: NDArray[np.bool_]) -> Side:
    groups = tuple(group for group, is_in in zip(side.groups, mask, strict=True) if is_in)
    return Side(side.values[mask], groups)


def _measure_fd(real: Side, other: Side, force: bool) -> Metric:
    fewest, dim = min(len(real), len(other)), real.values.shape[1]
    if fewest >= dim:
        return {"value": compute_fd(real.values, other.values)}
    why = f"{fewest} images are fewer than {dim} features, so the covariance is not full"
    if not force:
        return {"value": None, "refused": f"{why}; read kid, or --force"}
    return {"value": compute_fd(real.values, other.values), "flag": f"MEANINGLESS: {why}"}


def _measure_kernels(real: Side, other: Side, seed: int, key: str) -> dict[str, Metric]:
    groups, other_groups = number_groups(real.groups), number_groups(other.groups)
    first = pick_halves(len(real), groups, seed, "real", key)
    second = pick_halves(len(other), other_groups, seed, "other", key)
    unit = f"half samples of {name_unit(groups)}s and {name_unit(other_groups)}s"
    measures: dict[str, tuple[Callable[..., Mmd], str]] = {
        "kid": (measure_kid, "unbiased"),
        "cmmd": (measure_cmmd, "biased"),
    }
    found = {}
    for name, (measure, estimator) in measures.items():
        mmd = measure(real.values, other.values, (first, second))
        interval = measure_spread(getattr(mmd, estimator), mmd.draws, mmd.unbiased)
        found[name] = _describe(interval, unit)
    return found


def _measure_manifolds(real: Side, other: Side, seed: int) -> dict[str, Metric]:
    found = compare_manifolds(real.values, other.values, NEIGHBOURS)
    groups, other_groups = number_groups(real.groups), number_groups(other.groups)

    def bootstrap(values: NDArray[np.float64], drawn: Groups) -> Metric:
        return _describe(bootstrap_groups(values, drawn, seed), name_unit(drawn))

    return {
        "precision": bootstrap(found.precision, other_groups),
        "recall": bootstrap(found.recall, groups),
        "density": bootstrap(found.density, other_groups),
        "coverage": bootstrap(found.coverage, groups),
    }


def _describe(interval: Interval, unit: str) -> Metric:
    return {"value": interval.mean, "low": interval.low, "high": interval.high, "unit": unit}
