"""Foresight: which `early` would pay, from first tries that were looked at on their way."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from factory.data.records import FORESEEN, Candidate
from factory.engine.estimate import draw_first_jobs
from factory.engine.plan import Plan
from factory.evaluate.calibrate.costs import describe_share
from factory.evaluate.calibrate.scored import NO_CLASS, Scored
from factory.evaluate.calibrate.thresholds import Bound, Decider, Mask, Value
from factory.filters import score_all
from factory.models.generators.base import Pausable
from factory.models.generators.families import Family, open_family
from factory.models.generators.settings import find_entry
from factory.recipe.checks.filters import list_unstoppable
from factory.recipe.early import Early
from factory.recipe.file import LoadedRecipe

if TYPE_CHECKING:
    from factory.engine.shard import Worker

SHARES = (0.17, 0.25, 0.33, 0.42, 0.5)
"""Of the steps, after which tries are looked at."""
KEEPS = (1.0, 0.97, 0.94)
"""Shares of the tries that pass which a bound lets go on."""
LEAST = 20
"""Tries of a class that pass, below which no bound is chosen for it."""
PARTS = 5
"""Of the tries: what bounds of the others would do is told of each part."""
WORTH = 1.1
"""Gain from which a bound is proposed."""
_BETTER = 0.02
"""Gain for which a further score is bounded."""
_ALIKE = 0.03
"""Gains that differ by no more are alike: of them that with the fewest false stops is taken."""
_NEAR = 0.05
"""Of the steps, by which the step where a share stops may differ from it."""
Looks = Mapping[float, Mapping[str, float]]
"""Share of the steps -> name of a score -> that of the image foreseen there."""


def can_watch(loaded: LoadedRecipe) -> bool:
    """Whether tries of a recipe can be stopped part-way, and so be looked at on their way."""
    return next(list_unstoppable(loaded.recipe, _open_family(loaded)), None) is None


def list_shares(loaded: LoadedRecipe) -> tuple[float, ...]:
    """Returns those of `SHARES` that end at a step: a few steps are not stopped at all of them."""
    steps = _open_family(loaded).num_inference_steps
    if steps is None:
        return SHARES
    return tuple(
        share for share in SHARES if abs(max(1, round(share * steps)) / steps - share) < _NEAR
    )


def _open_family(loaded: LoadedRecipe) -> Family:
    recipe, session = loaded.recipe, loaded.session
    entry = find_entry(recipe.generator, session.catalogs)
    return open_family(recipe.generator, entry, session.base, session)


def watch_tries(
    worker: "Worker", plan: Plan, count: int
) -> Iterator[tuple[list[Candidate], list[Looks], float]]:
    """Yields batches of judged first tries of a plan, what was foreseen of each, and seconds.

    These are those of sampling and judging the batch, without the looks.

    Raises:
        FactoryError: sampling or scoring failed.
    """
    generator, size = cast(Pausable, worker.generator), worker.recipe.generator.batch_size
    jobs = draw_first_jobs(plan, worker.recipe.seed, count)
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        began, looking = time.perf_counter(), 0.0
        looks: list[dict[float, Mapping[str, float]]] = [{} for _ in batch]
        begun = generator.begin(batch, SHARES[0])
        for share in SHARES:
            begun = generator.go_on(begun, share)
            at = time.perf_counter()
            samples = [each.foreseen.finish(each.job.condition) for each in begun]
            found = score_all(worker.filters, samples, [each.job.condition for each in begun])
            for each, scores in zip(looks, found, strict=True):
                each[share] = scores
            looking += time.perf_counter() - at
        made = zip(generator.finish(begun), batch, strict=True)
        judged = worker.judge(batch, [one.finish(job.condition) for one, job in made])
        yield judged, [*looks], time.perf_counter() - began - looking


@dataclass(frozen=True, slots=True)
class _Tries:
    """The tries of a class: which of them pass, and whether each bound of a set stops them."""

    rows: tuple[Scored, ...]
    passed: Mask

    def take(self, chosen: Mask) -> "_Tries":
        """Returns some of them."""
        rows = itertools.compress(self.rows, chosen)
        return _Tries(tuple(rows), self.passed[chosen])

    def stop(self, share: float, limits: Mapping[Bound, float]) -> Mask:
        """Returns which of them bounds stop part-way."""
        stopped = np.zeros(len(self.rows), bool)
        for bound, limit in limits.items():
            early = build_early(share, {bound: limit})
            name = f"{FORESEEN}{bound.score}"
            for row, tried in enumerate(self.rows):
                seen = tried.looks[share][bound.score]
                stopped[row] |= early.is_hopeless({name: seen}, tried.class_name)
        return stopped


def build_early(share: float, limits: Mapping[Bound, Value]) -> Early:
    """Returns the section of a recipe with these bounds."""
    lower = {bound.score: limit for bound, limit in limits.items() if bound.is_lower}
    upper = {bound.score: limit for bound, limit in limits.items() if not bound.is_lower}
    return Early(at=share, min=lower, max=upper)


def propose_early(
    decider: Decider, rows: Sequence[Scored], shares: Sequence[float] = SHARES
) -> dict[str, Any] | None:
    """Reckons what `early` would bring under the thresholds as they are.

    For each share of the steps and each share of the good tries that are to go on, bounds are
    chosen for each class: the scores of the filters' own thresholds one after the other, as long as
    one more pays. What they would do is told of tries that they were not chosen by.

    Args:
        decider: of the recipe's filters.
        rows: first tries.
        shares: of the steps, after which tries may be stopped.

    Returns:
        `choices` (at, keep, bounds, stopped, false stops, gain in accepted images a scheduler
        step), and as `proposed` of the best of them the one that loses least, with the section to
        copy as `set` (None where none is worth it); `few`, the classes of which fewer tries pass
        than the `least` that choose a bound. None where nothing was looked at.
    """
    if not rows or not all(row.looks for row in rows):
        return None
    passed = decider.decide(rows, {})
    bounds = [each for each in decider.bounds if decider.read_value(each) is not None]
    names = [row.group for row in rows]
    groups = np.array(names if NO_CLASS not in names else [NO_CLASS] * len(rows))
    tries = _Tries(tuple(rows), passed)
    classes = {str(group): tries.take(groups == group) for group in np.unique(groups)}
    counts = {group: int(tries.passed.sum()) for group, tries in classes.items()}
    few = {group: count for group, count in counts.items() if shares and count < LEAST}
    told = {"least": LEAST, "few": few, "choices": [], "proposed": None}
    if len(few) == len(classes) or not shares:
        return told
    choices = [_describe(share, keep, classes, bounds) for share in shares for keep in KEEPS]
    highest = max(each["gain"] for each in choices)
    near = [each for each in choices if each["gain"] >= highest - _ALIKE]
    best = min(near, key=lambda each: (each["false_stops"]["share"] or 0.0, -each["gain"]))
    if best["gain"] < WORTH:
        return {**told, "choices": choices}
    text = yaml.safe_dump(best["early"], default_flow_style=True, sort_keys=False, width=10**6)
    proposed = {**best, "set": f"early={text.strip()}"}
    return {**told, "choices": choices, "proposed": proposed}


def _describe(
    share: float, keep: float, classes: Mapping[str, _Tries], bounds: Sequence[Bound]
) -> dict[str, Any]:
    limits: dict[Bound, dict[str, float]] = {}
    stopped, passed, costs = [], [], np.zeros(2)
    for group, tries in classes.items():
        is_chosen = tries.passed.sum() >= LEAST
        chosen = _choose(share, keep, tries, bounds) if is_chosen else {}
        for bound, limit in chosen.items():
            limits.setdefault(bound, {})[group] = limit
        part = np.arange(len(tries.rows)) % PARTS
        mask = np.zeros(len(tries.rows), bool)
        for number in range(PARTS if is_chosen else 0):
            others = _choose(share, keep, tries.take(part != number), bounds)
            mask[part == number] = tries.take(part == number).stop(share, others)
        stopped.append(mask)
        passed.append(tries.passed)
        costs += _count_costs(share, mask, tries.passed)
    all_stopped, all_passed = np.concatenate(stopped), np.concatenate(passed)
    joined = {
        bound: each if len(classes) > 1 else each.popitem()[1] for bound, each in limits.items()
    }
    return {
        "at": share,
        "keep": keep,
        "early": build_early(share, joined).model_dump(exclude_defaults=True) if joined else None,
        "stopped": describe_share(all_stopped),
        "false_stops": describe_share(all_stopped[all_passed]),
        "gain": round(float(costs[0] / costs[1]), 2) if costs[1] else 1.0,
    }


def _choose(
    share: float, keep: float, tries: _Tries, bounds: Sequence[Bound]
) -> dict[Bound, float]:
    """Returns the bounds that pay most, each letting `keep` of the good tries go on."""
    good, limits = tries.take(tries.passed), {}
    for bound in bounds:
        seen = np.array([row.looks[share][bound.score] for row in good.rows])
        seen = np.sort(seen[~np.isnan(seen)])
        if len(seen):
            left = int((1.0 - keep) * len(seen) + 1e-9)
            limits[bound] = float(seen[left] if bound.is_lower else seen[-1 - left])
    masks = {bound: tries.stop(share, {bound: limit}) for bound, limit in limits.items()}
    chosen: dict[Bound, float] = {}
    stopped, gain = np.zeros(len(tries.rows), bool), 1.0
    while left_over := [bound for bound in limits if bound not in chosen]:
        gains = {bound: _gain(share, stopped | masks[bound], tries.passed) for bound in left_over}
        best = max(left_over, key=lambda bound: gains[bound])
        if gains[best] < gain + _BETTER:
            break
        chosen[best], gain = limits[best], gains[best]
        stopped |= masks[best]
    return chosen


def _count_costs(share: float, stopped: Mask, passed: Mask) -> NDArray[np.float64]:
    """Returns what an accepted image costs, in whole tries, without stops and with them."""
    checked = Early.model_fields["check"].default
    accepted = passed.mean()
    lost = (stopped & passed).mean() * (1.0 - checked)
    cost = 1.0 - stopped.mean() * (1.0 - checked) * (1.0 - share)
    if accepted <= lost:
        return np.zeros(2)
    return np.array([1.0 / accepted, cost / (accepted - lost)])


def _gain(share: float, stopped: Mask, passed: Mask) -> float:
    before, after = _count_costs(share, stopped, passed)
    return float(before / after) if after else 0.0
