"""What factory itself costs an image: a run whose generator sleeps and gives images made before.

    python tests/benchmarks/orchestration.py [--images 512] [--batch 16] [--pause 0.2] [--size 64]
        [--shard-size 128] [--filters]

All that is left of a run is told: seconds that passed and CPU seconds of all threads, less the
generator's sleep, from its first call to finalising and over the whole run. The same images are
encoded and hashed again by themselves: `encoding` is what of that no factory can save. Seconds
that pass tell of the machine's other work, too. Prints JSON.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from measures import make_parser, tell

from factory import api
from factory.core.images import ImageFormat, encode_image, hash_pixels
from factory.data.records import Job, Sample
from factory.models.generators.families.fake import FakeGenerator
from factory.recipe.file import load_recipe

CLASSES = ("normal", "tumor")
KINDS = 32
"""Images of a class, which are given again and again."""


class Sleeper:
    """In place of the fake generator's call: sleeps, and gives images that are there.

    Attributes:
        slept: seconds.
        clocks: seconds passed and of CPU at its first call.
    """

    def __init__(self, pause: float) -> None:
        self._pause, self._made = pause, dict[tuple[Any, int], Sample]()
        self.slept = 0.0
        self.clocks: tuple[float, float] | None = None

    def generate(self, fake: FakeGenerator, jobs: Sequence[Job]) -> list[Sample]:
        """Returns a sample for each job."""
        self.clocks = self.clocks or read_clocks()
        samples = []
        for job in jobs:
            key = (job.request.condition.class_name, job.seed % KINDS)
            if key not in self._made:
                self._made[key] = fake._make_whole(job)
            samples.append(self._made[key])
        began = time.perf_counter()
        time.sleep(self._pause)
        self.slept += time.perf_counter() - began
        return samples

    def time_encoding(self, image_format: ImageFormat, rounds: int = 4) -> float:
        """Returns the CPU seconds of one image's file and its hash."""
        samples = list(self._made.values()) * rounds
        began = time.process_time()
        for sample in samples:
            hash_pixels(sample.pixels)
            encode_image(sample.pixels, image_format)
        return (time.process_time() - began) / len(samples)


def read_clocks() -> tuple[float, float]:
    """Seconds that passed, and CPU seconds of all threads of this process."""
    return time.perf_counter(), time.process_time()


def write_recipe(folder: Path, options: argparse.Namespace) -> Path:
    """Writes a recipe of two classes."""
    recipe = {
        "name": "orchestration",
        "generator": {
            "model": "fake",
            "width": options.size,
            "height": options.size,
            "batch_size": options.batch,
        },
        "conditions": [
            {"kind": "class", "per_class": dict.fromkeys(CLASSES, options.images // len(CLASSES))}
        ],
        "filters": [{"kind": "finite"}, {"kind": "tissue"}] if options.filters else [],
        "budget": {"attempts": 1, "on_shortfall": "warn"},
        "workers": {"executor": "local"},
        "output": {"shard_size": options.shard_size},
        "card": {"license": "cc0-1.0"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def run_once(folder: Path, options: argparse.Namespace) -> dict:
    """Runs the recipe; returns ms of an image, passed and of CPU."""
    loaded, sleeper = load_recipe(write_recipe(folder, options)), Sleeper(options.pause)
    ends: dict[str, tuple[float, float]] = {}

    def generate(fake: FakeGenerator, jobs: Sequence[Job]) -> list[Sample]:
        return sleeper.generate(fake, jobs)

    with mock.patch.object(FakeGenerator, "generate", generate):
        began = read_clocks()
        api.run(
            loaded,
            str(folder / "run"),
            say=lambda text: ends.setdefault(text, read_clocks()),
            notify=lambda outcome: None,
        )
        whole = read_clocks()
    assert sleeper.clocks is not None
    filled, image_format = ends["finalizing"], loaded.recipe.output.image_format

    def tell_image(start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
        passed = end[0] - start[0] - sleeper.slept
        found = {"ms": passed, "cpu_ms": end[1] - start[1]}
        return {name: round(1000 * value / options.images, 3) for name, value in found.items()}

    return {
        "images": options.images,
        "filling": tell_image(sleeper.clocks, filled),
        "whole_run": tell_image(began, whole),
        "encoding": {"cpu_ms": round(1000 * sleeper.time_encoding(image_format), 3)},
    }


def main() -> None:
    """Runs it and prints JSON."""
    parser = make_parser(__doc__, images=512, batch=16, pause=0.2, size=64, shard_size=128)
    parser.add_argument("--filters", action="store_true", help="the cheap ones: finite, tissue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run_once(Path(folder), options)
    tell(found, options.json)


if __name__ == "__main__":
    main()
