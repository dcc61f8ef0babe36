"""Images per second of factory against a bare loop over the same pipeline, side by side.

    python tests/benchmarks/throughput.py [--model nano-he] [--images 128] [--rounds 3] [--steps N]

Both use the same pipeline, batch, steps, guidance and threads in one process, and take turns, so
that a noisy machine hurts both. The bare loop samples and throws away. factory judges, encodes and
commits (first without filters, then with the quickstart's) and finalizes. Prints JSON.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from factory.api import run
from factory.engine.drain import Drain
from factory.engine.executors import start_worker
from factory.engine.plan import build_plan
from factory.engine.task import Order, Task
from factory.recipe.file import load_recipe

ROOT = Path(__file__).parent.parent.parent


CLASSES = ("normal", "tumor")


def write_recipe(folder: Path, options: argparse.Namespace, filters: list) -> Path:
    """Writes a recipe of `images` images whose shards are whole batches."""
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
        "output": {"shard_size": 4 * options.batch},
    }
    path = folder / f"recipe-{len(filters)}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def time_bare_loop(worker, images: int, batch: int) -> float:
    """Seconds of a plain loop over the worker's own diffusers pipeline."""
    made = worker.description["generator"]
    pipeline = worker.generator.model.pipeline  # the very same pipeline, called by hand
    pipeline.scheduler = copy.deepcopy(worker.generator.model.scheduler)
    guidance = made["guidance_scale"]
    began = time.perf_counter()
    for start in range(0, images, batch):
        generators = [torch.Generator().manual_seed(start + i) for i in range(batch)]
        pipeline(
            class_labels=[i % 2 for i in range(batch)],
            num_inference_steps=made["num_inference_steps"],
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
    return time.perf_counter() - began


def time_shards(order: Order, worker, plan) -> float:
    """Seconds to fill and commit all shards with a loaded worker."""
    began = time.perf_counter()
    for shard in plan.iterate_shards():
        task = Task(shard).ask(plan, order.recipe.budget.attempts)
        worker.run(task, lambda progress: None, Drain())
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict:
    """Takes turns and returns images per second and ratios."""
    quickstart = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())["filters"]
    seconds: dict[str, list[float]] = {"bare": [], "factory": [], "factory+filters": []}
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"factory": write_recipe(folder, options, [])}
        paths["factory+filters"] = write_recipe(folder, options, quickstart)
        loaded = {key: load_recipe(path) for key, path in paths.items()}
        for turn in range(options.rounds + 1):  # the first turn warms up
            for key, each in loaded.items():
                order = Order(each.recipe, each.session, str(folder / f"{key}-{turn}"))
                worker = start_worker(order, None)
                plan = build_plan(each.recipe, each.session)
                time_bare_loop(worker, options.batch, options.batch)
                if key == "factory":
                    seconds["bare"].append(time_bare_loop(worker, options.images, options.batch))
                seconds[key].append(time_shards(order, worker, plan))
            began = time.perf_counter()
            run(loaded["factory"], folder / f"whole-{turn}")
            whole.append(time.perf_counter() - began)
    rates = {key: options.images / statistics.median(values[1:]) for key, values in seconds.items()}
    return {
        "images": options.images,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "images_per_second": {key: round(value, 2) for key, value in rates.items()},
        "whole_run_images_per_second": round(options.images / statistics.median(whole[1:]), 2),
        "ratio_to_bare": {
            key: round(rates[key] / rates["bare"], 3) for key in ("factory", "factory+filters")
        },
    }


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano-he")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(measure(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
