"""Images per second of factory against a bare loop over the same pipeline, side by side.

    python tests/benchmarks/throughput.py [--model nano-he] [--images 128] [--rounds 3] [--steps N]

Both use the same pipeline, batch, steps, guidance and threads in one process, and take turns shard
by shard (4 batches). The bare loop samples and throws away. factory judges, encodes and commits:
first without filters, then with the quickstart's. `ratio_to_bare` is the median over shards of
seconds; a busy machine makes it jump, so `share_of_sampling` stands beside: what of its CPU seconds
factory spends in the call of the pipeline, which the bare loop does nothing but. Prints JSON.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml

from factory.engine.drain import Drain
from factory.engine.executors import start_worker
from factory.engine.plan import build_plan
from factory.engine.task import Order, Task
from factory.recipe.file import load_recipe

ROOT = Path(__file__).parent.parent.parent


CLASSES = ("normal", "tumor")
SHARD = 4
"""Batches of a shard."""


def write_recipe(folder: Path, options: argparse.Namespace, filters: list) -> Path:
    """Writes a recipe of `images` images whose shards are of four batches."""
    generator = {"model": options.model, "batch_size": options.batch}
    if options.steps:
        generator["steps"] = options.steps
    recipe = {
        "name": "throughput",
        "generator": generator,
        "conditions": [{"kind": "class", "per_class": dict.fromkeys(CLASSES, options.images // 2)}],
        "filters": filters,
        "budget": {"attempts": 1},
        "workers": {"executor": "local"},
        "output": {"shard_size": SHARD * options.batch},
    }
    path = folder / f"recipe-{len(filters)}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def read_clocks() -> np.ndarray:
    """Seconds that passed, and CPU seconds of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def time_bare_loop(worker, images: int, batch: int) -> np.ndarray:
    """Seconds, and of CPU, of a plain loop over the worker's own diffusers pipeline."""
    made = worker.description["generator"]
    pipeline = worker.generator.model.pipeline  # the very same pipeline, called by hand
    pipeline.scheduler = copy.deepcopy(worker.generator.model.scheduler)
    guidance = made["guidance_scale"]
    began = read_clocks()
    for start in range(0, images, batch):
        generators = [torch.Generator().manual_seed(start + i) for i in range(batch)]
        pipeline(
            class_labels=[i % 2 for i in range(batch)],
            num_inference_steps=made["num_inference_steps"],
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
    return read_clocks() - began


def time_shard(worker, plan, shard, attempts: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds, and of CPU, to fill and commit a shard; and those within the pipeline's call."""
    kind = type(worker.generator.model.pipeline)
    within, call = np.zeros(2), kind.__call__

    def timed(*args, **kwargs):
        nonlocal within
        began = read_clocks()
        try:
            return call(*args, **kwargs)
        finally:
            within = within + read_clocks() - began

    began = read_clocks()
    with mock.patch.object(kind, "__call__", timed):
        worker.run(Task(shard).ask(plan, attempts), lambda progress: None, Drain())
    return read_clocks() - began, within


def measure_rounds(each, folder: Path, options: argparse.Namespace) -> np.ndarray:
    """Returns (shards, 3, 2): seconds and CPU of the bare loop, of factory, of its sampling.

    They take turns shard by shard, so that a machine that is slow for a minute is so for both.
    """
    plan, attempts = build_plan(each.recipe, each.session), each.recipe.budget.attempts
    found = []
    for turn in range(options.rounds + 1):
        worker = start_worker(Order(each.recipe, each.session, str(folder / str(turn))), None)
        time_bare_loop(worker, options.batch, options.batch)
        for shard in plan.iterate_shards():
            bare = time_bare_loop(worker, SHARD * options.batch, options.batch)
            pair = np.stack([bare, *time_shard(worker, plan, shard, attempts)])
            print(f"round {turn}: {pair.round(2).tolist()}", file=sys.stderr)
            found += [pair] * bool(turn)  # the first turn warms up
    return np.stack(found)


def measure(options: argparse.Namespace) -> dict:
    """Takes turns and returns images per second and ratios."""
    quickstart = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())["filters"]
    result = {"images": options.images, "batch": options.batch, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as name:
        for key, filters in (("factory", []), ("factory+filters", quickstart)):
            folder = Path(name) / key
            folder.mkdir()
            each = load_recipe(write_recipe(folder, options, filters))
            pairs = measure_rounds(each, folder, options)
            result[key] = {
                "images_per_second": SHARD * options.batch / float(np.median(pairs[:, 1, 0])),
                "ratio_to_bare": float(np.median(pairs[:, 0, 0] / pairs[:, 1, 0])),
                "share_of_sampling": float(np.median(pairs[:, 2, 1] / pairs[:, 1, 1])),
                "shards": len(pairs),
            }
    return result


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano-he")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(measure(options), indent=1))


if __name__ == "__main__":
    main()
