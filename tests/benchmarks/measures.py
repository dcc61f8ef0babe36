"""What the benchmarks of models share: sampling, real images, distances, a classifier, copies."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from factory.catalog.catalog import Catalogs
from factory.core.hashing import derive_seed
from factory.core.metrics import compute_fd, compute_kid
from factory.core.thumbnails import compare_all, describe_images
from factory.data.images import SourceImage, fit_image, list_images
from factory.data.records import Condition, Job, Request
from factory.filters.training_copy import TrainingCopyFilter
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from factory.train.augment import jitter_stains, turn_images

Pixels = NDArray[np.uint8]
Features = NDArray[np.float64]

COPY = TrainingCopyFilter.Settings.model_fields["max_similarity"].default
"""Similarity above which the filter `training_copy` rejects by default."""

RANDOM = "torchvision:resnet18?pretrained=false"
"""Random weights of a fixed seed, as others take for images far from photographs (Naeem et al.
2020, arXiv 2002.09797): trained on nothing, so used in no training and no filter."""

TRAINED_BY = "color-texture"
"""Hand-made features; validation in training chose the checkpoint by them."""


@dataclass(frozen=True)
class Images:
    """(N, S, S, 3) uint8 RGB and (N,) class names."""

    pixels: Pixels
    labels: NDArray[np.str_]

    def take(self, rows: Any) -> "Images":
        """Returns some of them."""
        return Images(self.pixels[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.pixels)


class Sampler:
    """Samples a catalog model or a pipeline folder by conditions, unfiltered, and takes the time.

    Args:
        model: catalog id, Hub id or folder.
        catalogs: where it is looked up.
        options: further generator settings (steps, guidance, …); None values are left out.
    """

    def __init__(self, model: str, catalogs: Catalogs, options: Mapping[str, Any]) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        settings = GeneratorSettings(model=model, **{"batch_size": 32, **given})
        self.generator = build_generator(settings, catalogs.get_model(model), Path())
        self.size = self.generator.capabilities.width
        self.class_names = self.generator.capabilities.class_names or ()
        self.batch_size = settings.batch_size
        self._seconds, self._images = 0.0, 0

    def sample(self, conditions: Sequence[Condition], seeds: Sequence[int]) -> Pixels:
        """Returns one (S, S, 3) image for each condition and seed."""
        began, made = time.perf_counter(), []
        for start in range(0, len(seeds), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(seeds)))
            requests = [Request("benchmark", row, conditions[row], 0) for row in rows]
            jobs = [Job(request, 0, seeds[request.index]) for request in requests]
            made += [sample.pixels for sample in self.generator.generate(jobs)]
        self._seconds += time.perf_counter() - began
        self._images += len(seeds)
        return np.stack(made)

    def sample_classes(self, labels: Iterable[str], seed: int) -> Images:
        """Returns one image for each class name."""
        names = np.array(list(labels))
        conditions = [Condition(class_name=str(name)) for name in names]
        return Images(self.sample(conditions, make_seeds(seed, "class", len(names))), names)

    def sample_captions(self, captions: Sequence[str], seed: int) -> Images:
        """Returns one image for each caption, without a class; an empty one is no condition."""
        conditions = [Condition(caption=caption) for caption in captions]
        pixels = self.sample(conditions, make_seeds(seed, "caption", len(captions)))
        return Images(pixels, np.array([""] * len(pixels)))

    def describe(self) -> dict[str, Any]:
        """Returns what made the images, and how long one took."""
        wanted = ("model", "model_revision", "weights_sha256", "scheduler", "num_inference_steps")
        described = self.generator.describe()
        return {
            **{name: described[name] for name in (*wanted, "guidance_scale", "width", "device")},
            "seconds_per_image": round(self._seconds / max(self._images, 1), 3),
        }


def make_seeds(seed: int, *key: str | int) -> list[int]:
    """Returns as many seeds as the key's last entry says."""
    return [derive_seed(seed, "benchmark", *key[:-1], row) for row in range(int(key[-1]))]


def read_images(images: Sequence[SourceImage], size: int, fit: str) -> Images:
    """Reads real images as a model of `size` px would see them."""
    pixels = np.stack([fit_image(image.read_pixels(), size, size, fit) for image in images])
    return Images(pixels, np.array([str(image.class_name) for image in images]))


def read_set(folder: Path, size: int, fit: str) -> Images:
    """Reads all images of a folder with classes."""
    return read_images(list_images(folder), size, fit)


def draw_evenly(labels: NDArray[np.str_], count: int, seed: int, key: str) -> NDArray[np.int64]:
    """Draws about `count` rows, equally many of each class, without replacement."""
    draw = np.random.default_rng(derive_seed(seed, "benchmark", key))
    names = np.unique(labels)
    rows = [draw.permutation(np.flatnonzero(labels == n))[: count // len(names)] for n in names]
    return np.sort(np.concatenate(rows))


def augment(images: Images, count: int, seed: int) -> Images:
    """Returns classical augmentations, each image equally often.

    A square of at least 90 % of the side, one of the eight flips and quarter turns, and HED jitter
    of 0.05 (mild; the eight poses alone would repeat).
    """
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "augment"))
    generator = torch.Generator().manual_seed(derive_seed(seed, "benchmark", "jitter"))
    rows = np.resize(np.arange(len(images)), count)
    size = images.pixels.shape[1]
    cut = []
    for row in rows:
        side = int(draw.integers(round(0.9 * size), size + 1))
        top, left = draw.integers(0, size - side + 1, 2)
        square = Image.fromarray(images.pixels[row][top : top + side, left : left + side])
        cut.append(np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)))
    batch = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1
    batch = turn_images(batch, torch.from_numpy(draw.integers(0, 8, count)))
    batch = jitter_stains(batch, 0.05, generator).permute(0, 2, 3, 1)
    pixels = ((batch + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return Images(pixels, images.labels[rows])


def compare_features(first: Features, second: Features) -> dict[str, float]:
    """Returns Fréchet distance and kernel distance, each in the features as given."""
    return {
        "fd": round(compute_fd(first, second), 3),
        "kid": round(compute_kid(first, second), 4),
    }


def fit_classifier(features: Features, labels: NDArray[np.str_]) -> Pipeline:
    """Fits the logistic regression that all uses of a classifier here share."""
    regression = LogisticRegression(C=0.03, max_iter=3000, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression).fit(features, labels)


def score_classes(truth: NDArray[np.str_], predicted: NDArray[np.str_]) -> float:
    """Returns the balanced accuracy: the mean of the classes' recalls."""
    return float(recall_score(truth, predicted, average="macro", zero_division=0))


def resample_scores(
    truth: NDArray[np.str_], predictions: Sequence[NDArray[np.str_]], seed: int, rounds: int = 2000
) -> list[NDArray[np.float64]]:
    """Returns (rounds,) balanced accuracies of each prediction, on the same bootstrap samples.

    Images are drawn with replacement within each class.
    """
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "bootstrap"))
    parts = []
    for name in np.unique(truth):
        rows = np.flatnonzero(truth == name)
        drawn = rows[draw.integers(0, len(rows), (rounds, len(rows)))]
        parts.append([(predicted == truth)[drawn].mean(1) for predicted in predictions])
    return list(np.mean(parts, axis=0))


def find_interval(values: NDArray[np.float64]) -> list[float]:
    """Returns the 95 % interval, [low, high]."""
    return [round(float(value), 3) for value in np.quantile(values, (0.025, 0.975))]


def compare_copies(images: Pixels, others: Pixels) -> NDArray[np.float64]:
    """Returns (N,) largest similarities to `others`, over flips and quarter turns."""
    return compare_all(describe_images(images), describe_images(others).astype(np.float32))


def summarise_copies(similar: NDArray[np.float64]) -> dict[str, float]:
    """Returns the share that `training_copy` rejects, and how near the nearest come."""
    return {
        "images": len(similar),
        "share_above_filter": round(float((similar > COPY).mean()), 4),
        "quantile_99": round(float(np.quantile(similar, 0.99)), 4),
        "median": round(float(np.median(similar)), 4),
        "highest": round(float(similar.max()), 4),
    }


def write_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table with a heading."""
    lines = [f"\n## {title}\n", f"| {' | '.join(headers)} |", f"|{' --- |' * len(headers)}"]
    for row in rows:
        cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Returns a parser with `--json`, and an option for each default.

    Args:
        doc: of the script; its first line is the description.
        defaults: option -> number or text; of a list, words are separated by commas.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, value in defaults.items():
        kind: Any = partial(_split, type(value[0])) if isinstance(value, list) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses, with `--threads` and `--json` besides; torch takes as many threads."""
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def _split(kind: Callable[[str], Any], text: str) -> list[Any]:
    return [kind(each) for each in text.split(",")]


def tell(found: Any, path: Path | None, table: str | None = None) -> None:
    """Prints a table, or all numbers as JSON; writes these where a file is asked for."""
    text = json.dumps(found, indent=1)
    if path:
        path.write_text(text + "\n", encoding="utf-8")
    print(text if table is None else table)
