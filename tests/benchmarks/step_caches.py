"""What caches and guidance of fewer predictions save, and what they cost, beside the plain call.

    python tests/benchmarks/step_caches.py --real PATH/pcam-mini/test [--model he-multi-base]
        [--count 192] [--batch 16] [--fit resize] [--mpp 0.75] [--encoder he-ssl-eval]
        [--arm 'NAME={cache: {kind: taylorseer, interval: 3}}' ...] [--threads N] [--json FILE]

Each arm is settings of `generator`, and all make the same images: one for each of COUNT real ones,
of every class alike, asked by its embedding and µm per pixel alone, under the same seeds. They take
turns batch by batch in one process, so that a machine that is slow for a minute is so for all. Told
are, per image, seconds that passed, CPU seconds of all threads, and how often the network and its
blocks saw it; then how far the images are from real ones that nothing was asked by: kernel distance
(KID) and Fréchet distance (FD) in features of an encoder that neither made nor asked for them.
Intervals are of 95 % over half samples without replacement (as in `factory evaluate fidelity`; of
differences in FD over 25 of them), the same halves for all arms: differences from `plain`
are paired. `moved` is how far an image is from its plain twin, root mean square of [0, 1]. Prints
JSON.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measures import make_seeds, parse_options, read_images, tell
from numpy.typing import NDArray

from factory.catalog.catalog import load_catalogs
from factory.core.metrics import compute_fd
from factory.core.metrics.kernels import measure_kid
from factory.data.images import SourceImage, list_images
from factory.data.records import Condition, Job, Request
from factory.data.streams import Embedding, Scale
from factory.models.encoders import load_encoder
from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.families import open_family
from factory.models.generators.settings import GeneratorSettings

ARMS = """
plain: {}
steps 10: {steps: 10}
taylorseer 2: {cache: taylorseer}
taylorseer 3: {cache: {kind: taylorseer, interval: 3}}
taylorseer 2 of 10 steps: {steps: 10, cache: taylorseer}
guided .2 to .8: {guidance: 1.0, stream_guidance: {
  embedding: {scale: 2.0, low: 0.2, high: 0.8}, scale: {scale: 2.0, low: 0.2, high: 0.8}}}
apg: {guider: apg}
cfg_zero: {guider: cfg_zero}
"""
ROUNDS, FD_ROUNDS = 200, 25
CLOCKS = ("seconds", "cpu_seconds", "network_rows", "block_rows")
Features = NDArray[np.float64]


class Counter:
    """Counts the rows that modules are called with."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.count = 0
        for module in modules:
            module.forward = self._wrap(module.forward)  # type: ignore[method-assign]

    def _wrap(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += len(args[0])
            return forward(*args, **kwargs)

        return counted


class Arm:
    """Settings of a generator, and what it made so far."""

    def __init__(self, given: Mapping[str, Any], options: argparse.Namespace, model: Any) -> None:
        catalogs = load_catalogs()
        values = {"model": options.model, "batch_size": options.batch, **given}
        family = open_family(GeneratorSettings(**values), catalogs.get_model(options.model), Path())
        for field, fault in family.list_faults():
            raise SystemExit(f"{field}: {fault}")
        self.generator = DiffusersGenerator(family, model)  # type: ignore[arg-type]
        self.spent, self.made = np.zeros(len(CLOCKS)), list[Any]()

    def make(self, jobs: Sequence[Job], clocks: Callable[[], Any]) -> None:
        """Makes a batch of images."""
        began = clocks()
        self.made += [sample.pixels for sample in self.generator.generate(jobs)]
        self.spent += clocks() - began


def share_out(images: Sequence[SourceImage], count: int) -> tuple[list[SourceImage], ...]:
    """Returns images to ask by, of every class alike, and all others."""
    names = sorted({str(image.class_name) for image in images})
    asked = []
    for name in names:
        own = [image for image in images if str(image.class_name) == name]
        asked += own[:: max(1, len(own) * len(names) // count)][: count // len(names)]
    known = {image.key for image in asked}
    return asked, [image for image in images if image.key not in known]


def make_jobs(images: Sequence[SourceImage], size: int, options: argparse.Namespace) -> list[Job]:
    """Returns a job for each image: its embedding by the encoder of the model, and its scale."""
    spec = load_catalogs().find_model(options.model).embedding
    if spec is None:
        raise SystemExit(f"{options.model} takes no embedding")
    pixels = read_images(images, size, options.fit).pixels
    found = load_encoder(spec.encoder).encode(pixels)
    rows = [Embedding.of(row[None], spec.encoder) for row in found]
    asked = [Condition(None, None, row, Scale(options.mpp)) for row in rows]
    seeds = make_seeds(options.seed, "caches", len(asked))
    requests = [Request("caches", row, each, row) for row, each in enumerate(asked)]
    return [Job(request, 0, seed) for request, seed in zip(requests, seeds, strict=True)]


def make_all(arms: Mapping[str, Arm], jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Makes the images of all arms in turns, after a batch to warm up."""
    network = next(iter(arms.values())).generator.model.pipeline.transformer
    calls, blocks = Counter([network]), Counter(list(network.blocks))

    def read_clocks() -> NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time(), calls.count, blocks.count])

    starts = range(0, len(jobs), options.batch)
    next(iter(arms.values())).generator.generate(jobs[:1])
    for turn, start in enumerate(starts):
        order = list(arms) if turn % 2 else list(arms)[::-1]
        for name in order:
            arms[name].make(jobs[start : start + options.batch], read_clocks)
        print(f"{start + options.batch} of {len(jobs)} images", flush=True)


def measure(arms: Mapping[str, Arm], real: Features, encoder: Any, seed: int) -> dict[str, Any]:
    """Returns what each arm spent, and its distances."""
    draw, count = np.random.default_rng(seed), len(next(iter(arms.values())).made)
    picks = [_draw_halves(draw, count), _draw_halves(draw, len(real))]
    found: dict[str, Any] = {}
    plain, plain_pixels = None, np.stack(arms["plain"].made) / 255
    for name, arm in arms.items():
        pixels = np.stack(arm.made)
        features = np.asarray(encoder.encode(pixels), np.float64)
        kid = measure_kid(features, real, (picks[0], picks[1]))
        halves = zip(*(each[:FD_ROUNDS] for each in picks), strict=True)
        fds = np.array([compute_fd(features[one], real[other]) for one, other in halves])
        plain = (kid, fds, arm.spent) if plain is None else plain
        moved = np.sqrt(((pixels / 255 - plain_pixels) ** 2).mean((1, 2, 3))).mean()
        found[name] = {
            **{key: arm.spent[row] / count for row, key in enumerate(CLOCKS)},
            "speed": {key: plain[2][row] / arm.spent[row] for row, key in enumerate(CLOCKS)},
            "kid": [kid.unbiased, *_find_interval(kid.draws)],
            "kid_beside_plain": _compare(kid.draws - plain[0].draws),
            "fd": compute_fd(features, real),
            "fd_beside_plain": _compare(fds - plain[1]),
            "moved": float(moved),
        }  # fmt: skip
    return {"images": count, "real": len(real), "arms": found}


def _draw_halves(draw: np.random.Generator, count: int) -> NDArray[np.bool_]:
    return np.stack([draw.permutation(count) < count // 2 for _ in range(ROUNDS)])


def _find_interval(values: NDArray[np.float64]) -> list[float]:
    return [float(each) for each in np.quantile(values, (0.025, 0.975))]


def _compare(differences: NDArray[np.float64]) -> list[float]:
    return [float(differences.mean()), *_find_interval(differences)]


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--model", default="he-multi-base")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--fit", default="resize")
    parser.add_argument("--mpp", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", default="he-ssl-eval")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME={...}")
    options = parse_options(parser)
    own = dict(each.split("=", 1) for each in options.arm)
    given = {"plain": {}, **{name: yaml.safe_load(text) for name, text in own.items()}}
    given = given if own else yaml.safe_load(ARMS)
    first = Arm(given["plain"], options, None)
    arms = {name: Arm(each, options, first.generator.model) for name, each in given.items()}
    size, encoder = first.generator.capabilities.width, load_encoder(options.encoder)
    asked, others = share_out(list_images(options.real), options.count)
    make_all(arms, make_jobs(asked, size, options), options)
    real = np.asarray(encoder.encode(read_images(others, size, options.fit).pixels), np.float64)
    tell(measure(arms, real, encoder, options.seed), options.json)


if __name__ == "__main__":
    main()
