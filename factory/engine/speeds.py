"""`measure_speeds`: times a recipe's own model in each way that its network can run on this device.

What is chosen stands in the recipe (`generator.dtype`, `generator.speed`), never in a worker.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import GenerationError, InputError
from factory.data.records import Job
from factory.engine.estimate import draw_first_jobs
from factory.engine.plan import Plan
from factory.models.adoption.memory import watch_memory
from factory.models.generators import build_generator
from factory.models.generators.families import open_family
from factory.models.generators.loading import choose_device, choose_dtype, name_device
from factory.models.generators.settings import GeneratorSettings, find_entry
from factory.models.session import Session
from factory.recipe.file import LoadedRecipe

BATCHES = 3
"""Timed of each way, after one that loads, allocates and compiles."""
WORTH = 1.05
"""Times as fast as the plain call from which a way is proposed."""
Way = Mapping[str, Any]
"""What is other than in the plain call: dtype, channels_last, attention, compile."""


@dataclass
class Trials:
    """The ways tried so far.

    Attributes:
        settings: of the plain call.
        session: with the model's catalogs.
        jobs: whose images are made, whole batches.
        plain: its images, (N, H, W, 3) uint8.
        rows: what was measured, the plain call first.
        skipped: what was not, and why.
    """

    settings: GeneratorSettings
    session: Session
    jobs: Sequence[Job]
    plain: NDArray[np.uint8] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, way: Way, reason: str) -> None:
        """Notes that a way is not tried, or failed."""
        self.skipped.append({"setting": write_way(way), "reason": reason})

    def knows_to_fail(self, way: Way) -> bool:
        """Whether a part of a way failed by itself."""
        failed = {each["setting"] for each in self.skipped}
        return any(write_way({name: value}) in failed for name, value in way.items())

    def measure(self, way: Way) -> None:
        """Loads the model anew, makes the images, and notes what that took.

        Raises:
            FactoryError: the plain call failed.
        """
        if self.knows_to_fail(way):
            return
        try:
            self.rows.append(self._run(way))
        except (InputError, GenerationError) as error:
            if not way:
                raise
            self.skip(way, " ".join(str(error).split())[:300])
        finally:
            _tidy("compile" in way)

    def _run(self, way: Way) -> dict[str, Any]:
        entry = find_entry(self.settings, self.session.catalogs)
        settings, base = change(self.settings, way), self.session.base
        generator = build_generator(settings, entry, base, self.session)
        size, seconds = settings.batch_size, list[float]()
        batches = [self.jobs[start : start + size] for start in range(0, len(self.jobs), size)]
        samples = []
        generator.describe()  # loads the weights
        with watch_memory(choose_device(settings.device)) as peak:
            for batch in (batches[0], *batches):
                began = time.perf_counter()
                samples += generator.generate(batch)
                seconds.append(time.perf_counter() - began)
        samples = samples[len(batches[0]) :]
        if any(each.nonfinite_fraction for each in samples) and way:
            raise InputError("makes values that are not finite")
        made = np.stack([each.pixels for each in samples])
        self.plain = made if self.plain is None else self.plain
        moved = np.abs(made.astype(np.int16) - self.plain)
        return {
            "way": dict(way),
            "name": write_way(way),
            "images_per_second": size / statistics.median(seconds[1:]),
            "first_seconds": seconds[0],
            "batch_size": min(each.batch_size for each in samples),
            "memory_gb": peak.gb,
            "memory_of": peak.told,
            "max_difference": int(moved.max()),
            "mean_difference": round(float(moved.mean()), 4),
        }


def measure_speeds(
    loaded: LoadedRecipe,
    plan: Plan,
    batches: int = BATCHES,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns images per second, memory and differing pixels of each way, and what to set.

    All of dtype, channels_last and compile are combined; kernels of attention are tried on the
    fastest of these. Each way loads the model anew and makes the same first images.

    Args:
        loaded: the recipe; what its `speed` says now is one of the ways.
        plan: of it.
        batches: timed of each way.
        say: called with one line before each way.

    Raises:
        InputError: a model of a family whose network runs in one way alone.
        FactoryError: the model cannot be loaded, or makes nothing.
    """
    given = loaded.recipe.generator
    entry = find_entry(given, loaded.session.catalogs)
    device = choose_device(given.device)
    dtype = choose_dtype(given, entry, device)
    settings = given.model_copy(update={"speed": None, "dtype": dtype})
    family = open_family(settings, entry, loaded.session.base, loaded.session)
    if not family.runs_fast:
        message = f"{given.model} is of family {family.kind!r}, which runs in one way alone"
        raise InputError(f"generator.model: {message}: there is nothing to choose")
    size = given.batch_size
    jobs = draw_first_jobs(plan, loaded.recipe.seed, size * batches)
    jobs = list(itertools.islice(itertools.cycle(jobs), size * batches))
    trials = Trials(settings, loaded.session, jobs)
    now = {} if given.speed is None else given.speed.model_dump(exclude_defaults=True)
    for way in _list_ways(trials, device, now):
        say(f"sampling {batches + 1} batches of {size} images: {write_way(way)}")
        trials.measure(way)
    best = _find_best(trials.rows)
    plain = trials.rows[0]["images_per_second"]
    is_worth = best["images_per_second"] >= WORTH * plain
    return {
        "device": name_device(device),
        "dtype": dtype,
        "batches": batches,
        "ways": trials.rows,
        "skipped": trials.skipped,
        "proposed": _propose(best["way"], bool(now)) if is_worth else None,
    }


def change(settings: GeneratorSettings, way: Way) -> GeneratorSettings:
    """Returns the settings of the plain call, changed as a way says."""
    speed = {name: value for name, value in way.items() if name != "dtype"}
    told = {**settings.model_dump(), "speed": speed or None}
    return GeneratorSettings.model_validate({**told, "dtype": way.get("dtype", settings.dtype)})


def write_way(way: Way) -> str:
    """Returns e.g. `dtype: bfloat16, compile: true`."""
    told = (f"{name}: {str(value).lower()}" for name, value in way.items())
    return ", ".join(told) or "as it is"


def _list_ways(trials: Trials, device: str, now: Way) -> Iterator[Way]:
    """Yields the ways to try, each once; reads what the ones before it gave."""
    from factory.models.generators.speed import (
        explain_no_compiler,
        explain_slow_bfloat16,
        list_kernels,
    )

    tried: list[Way] = []
    levers: list[tuple[Way, ...]] = [({},)] * 3
    if trials.settings.dtype != "bfloat16":
        lacking = explain_slow_bfloat16(device)
        levers[0] = ({}, {"dtype": "bfloat16"})
        if lacking is not None:
            trials.skip(levers[0][1], lacking)
    levers[1] = ({}, {"channels_last": True})
    lacking = explain_no_compiler(device)
    if lacking is None and trials.settings.cache is not None:
        lacking = "a cache leaves out what would be compiled whole"
    levers[2] = ({}, {"compile": True})
    if lacking is not None:
        trials.skip(levers[2][1], lacking)
    ways = [{**one, **two, **three} for one, two, three in itertools.product(*levers)]
    for way in sorted([*ways, *([now] if now else [])], key=len):
        if way not in tried and not trials.knows_to_fail(way):
            tried.append(way)
            yield way
    fastest = _find_best(trials.rows)["way"]
    for kernel in list_kernels(device):
        way = {**fastest, "attention": kernel}
        if way not in tried:
            yield way


def _find_best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(rows, key=lambda row: row["images_per_second"])


def _propose(way: Way, is_said: bool) -> dict[str, Any]:
    """Returns the options and the lines of a recipe that ask for a way.

    Args:
        way: the one.
        is_said: the recipe has a `speed` already, which is to go where the way has none.
    """
    import yaml

    speed = {name: value for name, value in way.items() if name != "dtype"}
    told: dict[str, Any] = {"dtype": way["dtype"]} if "dtype" in way else {}
    told |= {"speed": speed or None} if speed or is_said else {}
    flow = {**told, "speed": f"{{{write_way(speed)}}}" if speed else "null"}
    options = [f"generator.{name}={flow[name]}" for name in told]
    return {"set": options, "yaml": yaml.safe_dump({"generator": told}, sort_keys=False)}


def _tidy(is_compiled: bool) -> None:
    """Lets go of what a way held: what the next takes is its own."""
    import torch

    gc.collect()
    if is_compiled:
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
