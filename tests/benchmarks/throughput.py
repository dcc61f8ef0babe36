"""Images per second of factory against a bare loop over the same pipeline, side by side.

    python tests/benchmarks/throughput.py [--model nano-he] [--images 128] [--rounds 3] [--steps N]
    python tests/benchmarks/throughput.py --shape sd15 --texts --size 512 --dtype bfloat16 \\
        --batch 16 --steps 30 --rounds 1         # on a GPU: random weights of that shape

Both use the same pipeline, batch, steps, guidance and threads in one process, and take turns shard
by shard (4 batches). The bare loop samples and throws away. factory judges, encodes and commits:
first without filters, then with the quickstart's. `ratio_to_bare` is the median over shards of
seconds; a busy machine makes it jump, so `share_of_sampling` stands beside: what of its CPU seconds
factory spends in the call of the pipeline, which the bare loop does nothing but. `gpu_busy` is the
share of factory's time in which a kernel ran, by the driver; null without a GPU. Prints JSON.
"""

import argparse
import copy
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from busy import BusyGpu
from measures import parse_options, tell

from factory.engine.executors import start_worker
from factory.engine.plan import build_plan
from factory.engine.task import Order, Task
from factory.recipe.file import load_recipe
from tests.pipelines import build_pipeline, save
from tests.running import fill_shard

ROOT = Path(__file__).parent.parent.parent


CLASSES = ("normal", "tumor")
TEXTS = ("a H&E patch with crowded nuclei", "a H&E patch with pale eosin and few nuclei")
SHARD = 4
"""Batches of a shard."""


def build_sd15() -> Any:
    """Returns a pipeline of the shape of Stable Diffusion 1.5 (1.07e9 weights), for 512 px."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    widths = (320, 640, 1280, 1280)
    deep = ("CrossAttnDownBlock2D",) * 3
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2,
        block_out_channels=widths, down_block_types=(*deep, "DownBlock2D"),
        up_block_types=("UpBlock2D", *(each.replace("Down", "Up") for each in deep)),
        cross_attention_dim=768, attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    told = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    return build_pipeline(
        "StableDiffusionPipeline", unet=unet, vae=vae, text_encoder=CLIPTextModel(told)
    )


SHAPES = {"sd15": build_sd15, "tiny-sd": lambda: build_pipeline("StableDiffusionPipeline")}
"""Pipelines whose weights are drawn, by name."""


def write_recipe(folder: Path, options: argparse.Namespace, filters: list) -> Path:
    """Writes a recipe of `images` images whose shards are of four batches."""
    generator = {"model": options.model, "batch_size": options.batch, "dtype": options.dtype}
    if options.steps:
        generator["steps"] = options.steps
    if options.size:
        generator |= {"width": options.size, "height": options.size}
    conditions = {"kind": "class", "per_class": dict.fromkeys(CLASSES, options.images // 2)}
    if options.texts:
        (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        conditions = {"kind": "caption", "captions": "texts.txt", "count": options.images}
    recipe = {
        "name": "throughput",
        "generator": generator,
        "conditions": [conditions],
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


def time_bare_loop(worker, images: int, options: argparse.Namespace) -> np.ndarray:
    """Seconds, and of CPU, of a plain loop over the worker's own diffusers pipeline."""
    made = worker.description["generator"]
    pipeline = worker.generator.model.pipeline  # the very same pipeline, called by hand
    pipeline.scheduler = copy.deepcopy(worker.generator.model.scheduler)
    batch = options.batch
    asked: dict[str, Any] = {"class_labels": [i % 2 for i in range(batch)]}
    if options.texts:
        asked = {"prompt": [TEXTS[i % 2] for i in range(batch)]}
    if options.size:
        asked |= {"width": options.size, "height": options.size}
    began = read_clocks()
    for start in range(0, images, batch):
        pipeline(
            **asked,
            num_inference_steps=made["num_inference_steps"],
            guidance_scale=made["guidance_scale"],
            generator=[torch.Generator().manual_seed(start + i) for i in range(batch)],
            output_type="np",
        )
    return read_clocks() - began


def time_shard(worker, plan, shard, attempts: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds, and of CPU, to fill and commit a shard; and those within the pipeline's call."""
    kind = type(worker.generator.model.pipeline)
    within, call = np.zeros(2), kind.__call__

    @functools.wraps(call)  # factory asks the signature what the pipeline takes
    def timed(*args, **kwargs):
        nonlocal within
        began = read_clocks()
        try:
            return call(*args, **kwargs)
        finally:
            within = within + read_clocks() - began

    began = read_clocks()
    with mock.patch.object(kind, "__call__", timed):
        fill_shard(worker, Task(shard).ask(plan, attempts))
    return read_clocks() - began, within


def measure_rounds(
    each, folder: Path, options: argparse.Namespace
) -> tuple[np.ndarray, list[float]]:
    """Returns (shards, 3, 2): seconds and CPU of the bare loop, of factory, of its sampling.

    And the busy shares of the GPU while factory had it.

    They take turns shard by shard, so that a machine that is slow for a minute is so for both.
    """
    plan, attempts = build_plan(each.recipe, each.session), each.recipe.budget.attempts
    found, busy = [], []
    for turn in range(options.rounds + 1):
        worker = start_worker(Order(each.recipe, each.session, str(folder / str(turn))), None)
        time_bare_loop(worker, options.batch, options)
        for shard in plan.iterate_shards():
            bare = time_bare_loop(worker, SHARD * options.batch, options)
            with BusyGpu() as gpu:
                pair = np.stack([bare, *time_shard(worker, plan, shard, attempts)])
            print(f"round {turn}: {pair.round(2).tolist()}", file=sys.stderr)
            found += [pair] * bool(turn)  # the first turn warms up
            busy += gpu.shares * bool(turn)
    return np.stack(found), busy


def measure(options: argparse.Namespace) -> dict:
    """Takes turns and returns images per second and ratios."""
    quickstart = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())["filters"]
    result = {"images": options.images, "batch": options.batch, "threads": torch.get_num_threads()}
    result["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        if options.shape:
            options.model = str(save(SHAPES[options.shape], Path(name) / "model"))
        for key, filters in (("factory", []), ("factory+filters", quickstart)):
            folder = Path(name) / key
            folder.mkdir()
            each = load_recipe(write_recipe(folder, options, filters))
            pairs, busy = measure_rounds(each, folder, options)
            result[key] = {
                "images_per_second": SHARD * options.batch / float(np.median(pairs[:, 1, 0])),
                "ratio_to_bare": float(np.median(pairs[:, 0, 0] / pairs[:, 1, 0])),
                "share_of_sampling": float(np.median(pairs[:, 2, 1] / pairs[:, 1, 1])),
                "gpu_busy": float(np.mean(busy)) if busy else None,
                "shards": len(pairs),
            }
    return result


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano-he")
    parser.add_argument("--shape", choices=SHAPES, help="instead of a model: random weights")
    parser.add_argument("--texts", action="store_true", help="ask by captions, not by classes")
    parser.add_argument("--size", type=int, help="px; default: the model's")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parse_options(parser)
    tell(measure(options), options.json)


if __name__ == "__main__":
    main()
