"""A whole run with Ray workers beside a bare loop, and beside Ray Data's `map_batches` to parquet.

    python -m tests.benchmarks.rivals [--images 128 384] [--workers 2] [--batch 16] [--rounds 3]

All three sample the same model, classes, seeds, steps and batches, with as many processes and one
thread each (`OMP_NUM_THREADS`). The bare loop throws its images away; Ray Data's actors encode them
losslessly as factory does, and write a parquet file; factory commits shards, without filters, and
writes the data set with its card. Each runs in a process of its own, in turns. `seconds` are of the
whole command, starts and loading included; `ms_per_image` is what a further image takes, from the
difference of the two sizes, so that starts count for nothing. Prints JSON: both, their medians over
rounds, and the ratios of the others' to factory's (above 1: factory is faster).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from factory.api import run
from factory.core.images import encode_image
from factory.engine.estimate import draw_first_jobs
from factory.engine.plan import build_plan
from factory.models.generators.outputs import quantise
from factory.recipe.file import load_recipe

CLASSES = ("normal", "tumor")


def write_recipe(folder: Path, options: argparse.Namespace, images: int) -> Path:
    """Writes the recipe of so many images, without filters."""
    generator: dict[str, Any] = {"model": options.model, "batch_size": options.batch}
    if options.steps:
        generator["steps"] = options.steps
    recipe = {
        "name": "rivals",
        "generator": generator,
        "conditions": [{"kind": "class", "per_class": dict.fromkeys(CLASSES, images // 2)}],
        "filters": [],
        "budget": {"attempts": 1},
        "workers": {"executor": "ray", "count": options.workers},
        "card": {"license": "cc0-1.0"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def list_rows(recipe: Path, images: int) -> list[dict[str, Any]]:
    """Returns class and seed of each first try, as factory makes it."""
    loaded = load_recipe(recipe)
    plan = build_plan(loaded.recipe, loaded.session)
    jobs = draw_first_jobs(plan, loaded.recipe.seed, images)
    return [{"name": job.condition.class_name, "seed": job.seed} for job in jobs]


class Loop:
    """The pipeline of a recipe, called by hand; also what an actor of Ray Data is."""

    def __init__(self, recipe: str) -> None:
        import torch

        from factory.models.generators import build_generator
        from factory.models.generators.settings import find_entry

        torch.set_num_threads(1)
        loaded = load_recipe(Path(recipe))
        settings = loaded.recipe.generator
        entry = find_entry(settings, loaded.session.catalogs)
        generator = build_generator(settings, entry, loaded.session.base, loaded.session)
        self.model, self.made = generator.model, generator.describe()

    def sample(self, names: list[str], seeds: list[int]) -> Any:
        """Returns (N, H, W, 3) images of one batch."""
        import torch

        found = self.model.pipeline(
            class_labels=[self.model.class_labels[name] for name in names],
            num_inference_steps=self.made["num_inference_steps"],
            guidance_scale=self.made["guidance_scale"],
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            output_type="np",
        )
        return found.images

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds the images to a batch of Ray Data, encoded as factory does."""
        pixels, _ = quantise(self.sample(list(batch["name"]), list(batch["seed"])))
        return {**batch, "image": [encode_image(each, "webp") for each in pixels]}


def loop_over(recipe: str, rows: list[dict[str, Any]], batch: int) -> None:
    """Samples rows batch by batch, and throws them away."""
    loop = Loop(recipe)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        loop.sample([each["name"] for each in part], [each["seed"] for each in part])


def run_bare(recipe: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Loops in as many processes, each over its part."""
    parts = [rows[number :: options.workers] for number in range(options.workers)]
    context = multiprocessing.get_context("spawn")
    works = [
        context.Process(target=loop_over, args=(str(recipe), part, options.batch)) for part in parts
    ]
    for each in works:
        each.start()
    for each in works:
        each.join()
        assert each.exitcode == 0


def run_ray_data(recipe: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Maps batches by as many actors, and writes parquet."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // options.batch))
    made = data.map_batches(
        Loop,
        fn_constructor_args=(str(recipe),),
        batch_size=options.batch,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    out = recipe.parent / "ray-data"
    made.write_parquet(str(out))
    assert ray.data.read_parquet(str(out)).count() == len(rows)
    ray.shutdown()


def run_factory(recipe: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Runs the recipe to its data set."""
    result = run(load_recipe(recipe), str(recipe.parent / "run"))
    assert result.summary.accepted == len(rows)


ARMS = {"factory": run_factory, "bare": run_bare, "ray-data": run_ray_data}


def time_arm(arm: str, images: int, options: argparse.Namespace) -> float:
    """Returns the seconds that a process takes which makes so many images."""
    words = [sys.executable, "-m", __spec__.name, "--arm", arm, "--images", str(images)]
    words += ["--workers", str(options.workers), "--batch", str(options.batch)]
    words += ["--model", options.model, *(["--steps", str(options.steps)] if options.steps else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    began = time.perf_counter()
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs all arms in turns, with both sizes; returns medians and ratios."""
    few, many = options.images
    taken: dict[str, dict[int, list[float]]] = {arm: {few: [], many: []} for arm in ARMS}
    for turn in range(options.rounds):
        for images in (few, many):
            for arm, seconds in taken.items():
                seconds[images].append(time_arm(arm, images, options))
                told = f"round {turn}: {arm} {images}: {seconds[images][-1]:.1f} s"
                print(told, file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for arm, seconds in taken.items():
        each = [
            (b - a) / (many - few) * 1000 for a, b in zip(seconds[few], seconds[many], strict=True)
        ]
        found[arm] = {"seconds": seconds, "ms_per_image": each}
        found[arm]["median_ms_per_image"] = statistics.median(each)
    for arm in ("bare", "ray-data"):
        pairs = zip(found[arm]["ms_per_image"], found["factory"]["ms_per_image"], strict=True)
        whole = zip(taken[arm][many], taken["factory"][many], strict=True)
        found[arm]["ratio"] = statistics.median(theirs / ours for theirs, ours in pairs)
        found[arm]["ratio_of_whole_commands"] = statistics.median(a / b for a, b in whole)
    return found


def main() -> None:
    """Prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano-he")
    parser.add_argument("--images", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help="to run once, and no more")
    options = parser.parse_args()
    if not options.arm:
        print(json.dumps(measure(options), indent=1))
        return
    with tempfile.TemporaryDirectory() as name:
        recipe = write_recipe(Path(name), options, options.images[0])
        ARMS[options.arm](recipe, list_rows(recipe, options.images[0]), options)


if __name__ == "__main__":
    main()
