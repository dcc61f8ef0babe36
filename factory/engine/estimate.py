"""Cost estimates: what a plan will take, from arithmetic and a short calibration."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from factory.core.errors import InputError
from factory.core.stats.intervals import compute_wilson
from factory.data.records import Candidate, Job
from factory.engine.cost import CostOptions, reckon_costs
from factory.engine.disk import assume_rows, measure_rows, sum_disk
from factory.engine.plan import Plan
from factory.models.generators.settings import find_entry
from factory.recipe.conditions.series import find_details
from factory.recipe.ending import FIRST
from factory.recipe.file import LoadedRecipe
from factory.recipe.recipe import Recipe, compute_recipe_digest
from factory.recipe.stop import Stop

CALIBRATION_BATCHES = 2
DEFAULT_SIDE = 512
"""px, where neither recipe nor catalog tells the size."""


def draw_first_jobs(plan: Plan, seed: int, count: int) -> list[Job]:
    """Returns the first try at the first requests, the series taking turns."""
    columns = [map(part.request_at, range(part.count)) for part in plan.series]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    requests = itertools.islice((each for each in turns if each is not None), count)
    return [Job(each, 0, each.derive_seed(seed, 0)) for each in requests]


def describe_loading(recipe: Recipe, count: int) -> str:
    """Says what is loaded, and made, before a few first tries are judged: it takes a while."""
    kinds = ", ".join(each.name for each in recipe.filters)
    judges = f" and what filters: {kinds}" if kinds else ""
    return f"loading the model {recipe.generator.model}{judges}; then sampling {count:,} images"


def estimate_cost(
    loaded: LoadedRecipe,
    plan: Plan,
    calibrate: bool,
    say: Callable[[str], None] = lambda line: None,
    costs: CostOptions | None = None,
) -> dict[str, Any]:
    """Returns counts by series, shards, and expected attempts, seconds, disk and costs.

    Calibrating loads the model and the filters and judges two batches of real candidates; `say` is
    called with one line before. The ends of candidates, seconds and costs are those of the
    acceptance in so few (Wilson, 95 %); how long a candidate takes is as measured.

    Raises:
        InputError: costs that nothing can be reckoned of.
        FactoryError: the model or a filter cannot be loaded.
    """
    costs = costs or CostOptions()
    if problem := costs.find_problem(calibrate):
        raise InputError(problem)
    recipe, images = loaded.recipe, plan.count_requests()
    report: dict[str, Any] = {
        "name": recipe.name,
        "recipe_sha256": compute_recipe_digest(recipe),
        "images": images,
        "shards": plan.count_shards(),
        "series": [
            {"label": part.label, "count": part.count, **find_details(part)} for part in plan.series
        ],
        "max_candidates": images * recipe.budget.attempts,
        "idle_share": compute_idle_share(plan, recipe.generator.batch_size),
        **({} if recipe.budget.stop is None else {"may_end": list_ends(plan, recipe.budget.stop)}),
    }
    if not calibrate:
        entry = find_entry(recipe.generator, loaded.session.catalogs)
        width = recipe.generator.width or (entry.width if entry else DEFAULT_SIDE)
        height = recipe.generator.height or (entry.height if entry else DEFAULT_SIDE)
        disk = sum_disk(recipe.output, assume_rows(width, height), images, 0)
        return report | {"disk_gib": disk / 2**30, "calibration": None}
    say(describe_loading(recipe, CALIBRATION_BATCHES * recipe.generator.batch_size))
    measured = _measure(loaded, plan)
    acceptance = measured["acceptance"]
    per_request = expect_attempts(acceptance, recipe.budget.attempts)
    candidates = round(images * per_request)
    accepted = round(images * (1 - (1 - acceptance) ** recipe.budget.attempts))
    # Places left over in batches are filled with further tries, which are kept as spare ones.
    made = max(candidates, round(images / (1 - report["idle_share"])))
    disk = sum_disk(
        recipe.output, measured.pop("rows"), accepted, made - accepted, report["shards"]
    )
    return report | {
        "acceptance": acceptance,
        **_find_ends(recipe, plan, measured, costs),
        "seconds_per_candidate": measured["seconds"],
        "expected_candidates": candidates,
        "expected_accepted": accepted,
        "expected_seconds": candidates * measured["seconds"],
        "disk_gib": disk / 2**30,
        "calibration": measured,
    }


def list_ends(plan: Plan, rule: Stop) -> dict[str, int]:
    """Returns series -> requests after which it may end at the earliest, of those that may."""
    first = FIRST * rule.every
    return {part.label: first for part in plan.series if part.count > first}


def _find_ends(
    recipe: Recipe, plan: Plan, measured: Mapping[str, Any], costs: CostOptions
) -> dict[str, Any]:
    """Returns between what acceptance, candidates and costs likely lie.

    A shard is one worker's: of more workers than shards, the others have nothing to do.
    """
    attempts, images = recipe.budget.attempts, plan.count_requests()
    count = None if recipe.workers.count == "auto" else recipe.workers.count
    busy = count and min(count, plan.count_shards())
    ends = compute_wilson(measured["acceptance"], measured["candidates"])
    shares = (measured["acceptance"], ends.high, ends.low)
    tries = [images * expect_attempts(share, attempts) for share in shares]
    expected, least, most = (each * measured["seconds"] for each in tries)
    return {
        "acceptance_ends": [ends.low, ends.high],
        "expected_candidates_ends": [round(each) for each in tries[1:]],
        "costs": reckon_costs((expected, least, most), costs, busy),
    }


def compute_idle_share(plan: Plan, batch_size: int) -> float:
    """Returns the share of places in first batches that no request needs, by arithmetic.

    They go to further attempts, which most requests do not need: small shards or series, or a shard
    size that is no multiple of the batch size, waste sampling.
    """
    needed = places = 0
    before: Mapping[str, int] = {}
    for generation in plan.generations:
        size = generation.shard_size
        for key, count in generation.counts.items():
            full, rest = divmod(count - before.get(key, 0), size)
            needed += full * size + rest
            places += batch_size * (full * -(-size // batch_size) + -(-rest // batch_size))
        before = generation.counts
    return round(1 - needed / places, 4) if places else 0.0


def expect_attempts(acceptance: float, budget: int) -> float:
    """Returns the expected tries per request: a geometric distribution cut at the budget."""
    if acceptance <= 0:
        return float(budget)
    return float((1 - (1 - acceptance) ** budget) / acceptance)


def _measure(loaded: LoadedRecipe, plan: Plan) -> dict[str, Any]:
    from factory.engine.shard import Worker
    from factory.engine.task import Order

    recipe = loaded.recipe
    worker = Worker(Order(recipe, loaded.session, "memory://calibration"))
    size = recipe.generator.batch_size
    jobs = draw_first_jobs(plan, recipe.seed, size * CALIBRATION_BATCHES)
    worker.generate(jobs[:size])  # warm-up: the first call allocates and compiles
    began = time.perf_counter()
    accepted = 0
    judged: list[Candidate] = []
    step = size if recipe.early is None else len(jobs)  # what goes on shares batches
    for start in range(0, len(jobs), step):
        candidates = worker.try_all(jobs[start : start + step])
        accepted += sum(each.verdict.accepted for each in candidates)
        judged += candidates
    rows = measure_rows(worker, judged)  # encodes the images, which a run does too
    seconds = time.perf_counter() - began
    return {
        "candidates": len(jobs),
        "acceptance": accepted / len(jobs),
        "seconds": seconds / len(jobs),
        "bytes": round(rows.whole),
        "rows": rows,
    }
