"""Accepted images per second with and without `early`, side by side, and how near both are to real.

    python tests/benchmarks/early.py tests/benchmarks/early.yaml
        --early '{at: 0.33, min: {contrast: 0.12}}'
        --out DIR [--real DIR] [--set FIELD=VALUE ...] [--threads N] [--json FILE]

Both arms are the recipe, one with `early`. They take turns shard by shard in one process, on the
same requests and seeds, so that a machine that is slow for a minute is so for both; a batch of each
warms up. `ratio` is accepted requests per second with `early`, divided by that without, over all
shards: of CPU seconds of all threads, of seconds that passed, and of scheduler steps of a batch,
which no other work on the machine changes. Both runs are then finished, and `factory evaluate
fidelity` measures both accepted sets against real images. Prints JSON.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measures import parse_options, tell

from factory.api import run
from factory.cli import main as run_factory
from factory.engine.continuing import build_record
from factory.engine.estimate import draw_first_jobs
from factory.engine.executors import start_worker
from factory.engine.plan import build_plan
from factory.engine.task import Order, Task
from factory.models.generators.pausing import Pause
from factory.recipe.file import load_recipe
from tests.running import fill_shard

ARMS = ("whole", "early")
KINDS = ("second", "cpu_second", "batch_step")


class Steps:
    """Counts the scheduler steps of all calls."""

    def __init__(self) -> None:
        self.count, whole = 0, Pause.find_steps

        def find(pause: Pause, count: int) -> range:
            steps = whole(pause, count)
            self.count += len(steps)
            return steps

        self.find = find


STEPS = Steps()


def read_clocks() -> np.ndarray:
    """Seconds that passed, CPU seconds of all threads, and scheduler steps of batches."""
    return np.array([time.perf_counter(), time.process_time(), STEPS.count])


class Arm:
    """A run of the recipe, filled shard by shard by hand."""

    def __init__(self, options: argparse.Namespace, name: str) -> None:
        sets = [*options.set, *([f"early={options.early}"] if name == "early" else [])]
        self.loaded, self.url = load_recipe(options.recipe, sets), str(options.out / name)
        self.recipe = self.loaded.recipe
        self.plan = build_plan(self.recipe, self.loaded.session)
        shutil.rmtree(self.url, ignore_errors=True)
        self.worker = start_worker(Order(self.recipe, self.loaded.session, self.url), None)
        self.worker.folder.write_run(build_record(self.recipe, self.plan))
        size = self.recipe.generator.batch_size
        self.worker.try_all(draw_first_jobs(self.plan, self.recipe.seed, size))
        self.found: list[list[float]] = []

    def fill(self, shard: Any) -> None:
        """Fills a shard; notes what `read_clocks` reads, filled requests and candidates."""
        began = read_clocks()
        task = Task(shard).ask(self.plan, self.recipe.budget.attempts)
        marker = fill_shard(self.worker, task)
        self.found.append([*(read_clocks() - began), marker.filled, marker.generated])

    def finish(self) -> dict[str, Any]:
        """Writes the data set; returns what was made of it."""
        summary = run(self.loaded, self.url).summary
        *spent, filled, tries = np.sum(self.found, 0)
        early = [part.early.to_json() for part in summary.series if part.early]
        told = {key: sum(each[key] for each in early) for key in early[0]} if early else None
        return {
            "accepted": int(filled),
            "tries": int(tries),
            "acceptance": filled / tries,
            **{
                f"accepted_per_{kind}": filled / each
                for kind, each in zip(KINDS, spent, strict=True)
            },
            "early": told,
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Takes turns; returns what each arm made, the ratios, and how near both are to real images."""
    arms = {name: Arm(options, name) for name in ARMS}
    for number, shard in enumerate(arms["whole"].plan.iterate_shards()):
        for name in ARMS if number % 2 else ARMS[::-1]:
            arms[name].fill(shard)
            print(name, np.round(arms[name].found[-1], 1).tolist(), flush=True)
    found: dict[str, Any] = {name: arm.finish() for name, arm in arms.items()}
    keys = [f"accepted_per_{kind}" for kind in KINDS]
    found["ratio"] = {key: found["early"][key] / found["whole"][key] for key in keys}
    if options.real is not None:
        words = ["evaluate", "fidelity", "--real", str(options.real), "--force"]
        words += [word for arm in arms.values() for word in ("--synthetic", arm.url)]
        run_factory([*words, "--json", str(options.out / "fidelity.json")], standalone_mode=False)
        found["fidelity"] = json.loads((options.out / "fidelity.json").read_text("utf-8"))
    return found


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--early", required=True, help="section of the recipe, in YAML")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parse_options(parser)
    with mock.patch.object(Pause, "find_steps", STEPS.find):
        tell(measure(options), options.json)


if __name__ == "__main__":
    main()
