"""Compares image encoders on real labelled sets: how well a linear classifier tells their classes.

    python tests/benchmarks/encoders.py --data PATH [--encoders he-ssl,color-texture,...]
        [--sets pcam-mini,...] [--size 64] [--shots 5,10] [--draws 20] [--json FILE]

PATH holds the sets, each an ImageFolder of `train/` and `test/`. An encoder is anything that a
recipe may name, or a folder; `NAME=FOLDER` prints NAME. For each set a logistic regression (one
strength of regularisation for all encoders) is fitted on the features of the training images, or of
a few shots of each class, and tested on the test images, which no encoder here has seen. The
shipped encoders have seen the training images, without their labels. Prints Markdown tables.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measures
import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from factory.core.stains import measure_attributes
from factory.models.encoders import Encoder, load_encoder

FITS = {"pcam-mini": "crop"}
"""Where the label concerns the centre at its own scale; all other sets are resized."""

SETS = ("pcam-mini", "oral-oscc", "cervix-lbc4", "crc-val-7k-tiny")
RESNET = "random small-resnet"
ENCODERS = ("he-ssl", "he-ssl-eval", measures.TRAINED_BY, RESNET)
STAINS = ("haematoxylin", "eosin")
TIMED = 256  # images


class UntrainedEncoder:
    """The architecture of the shipped encoders with weights of a fixed seed: what training adds."""

    dim: int

    def __init__(self) -> None:
        from factory.models.encoders.small_resnet import SmallResNet

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._network = SmallResNet((32, 64, 128, 256)).eval()
        self.dim = self._network.dim

    def describe(self) -> dict[str, Any]:
        """Returns what an encoder tells of itself."""
        return {"id": RESNET, "revision": None, "dim": self.dim}

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns (N, dim) features."""
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).float().split(16)
        return torch.cat([self._network(batch) for batch in batches]).numpy()


def find_encoder(spec: str) -> tuple[str, Encoder]:
    """Returns name and encoder of what a recipe may say, or of `NAME=FOLDER`."""
    if spec == RESNET:
        return spec, UntrainedEncoder()
    name, _, folder = spec.partition("=")
    if folder and Path(folder).is_dir():
        return name, load_encoder(folder)
    return spec, load_encoder(spec)


def measure_set(
    encoder: Encoder, train: measures.Images, test: measures.Images, options: argparse.Namespace
) -> dict[str, Any]:
    """Returns balanced accuracies fitted on all training images and on shots, and stain R2."""
    known = encoder.encode(train.pixels).astype(np.float64)
    target = encoder.encode(test.pixels).astype(np.float64)
    predicted = measures.fit_classifier(known, train.labels).predict(target)
    drawn = measures.resample_scores(test.labels, [predicted], options.seed)[0]
    found: dict[str, Any] = {
        "balanced_accuracy": round(measures.score_classes(test.labels, predicted), 3),
        "interval": measures.find_interval(drawn),
    }
    for shots in options.shots:
        found[f"shots_{shots}"] = measure_shots(known, train, target, test, shots, options)
    found["stain_r2"] = measure_stain(known, train, target, test)
    return found


def measure_shots(
    known: measures.Features,
    train: measures.Images,
    target: measures.Features,
    test: measures.Images,
    shots: int,
    options: argparse.Namespace,
) -> dict[str, Any] | None:
    """Returns mean and 95 % interval over draws of the shots; None where there are too few."""
    names, counts = np.unique(train.labels, return_counts=True)
    if counts.min() < shots:
        return None
    scores = []
    for draw in range(options.draws):
        rows = measures.draw_evenly(train.labels, shots * len(names), options.seed, f"shots {draw}")
        fitted = measures.fit_classifier(known[rows], train.labels[rows])
        scores.append(measures.score_classes(test.labels, fitted.predict(target)))
    return {
        "mean": round(float(np.mean(scores)), 3),
        "interval": measures.find_interval(np.array(scores)),
    }


def measure_stain(
    known: measures.Features,
    train: measures.Images,
    target: measures.Features,
    test: measures.Images,
) -> float:
    """Returns how much of the measured stain strength the features hold: mean R2 of ridge fits."""
    asked, truth = measure_attributes(train.pixels), measure_attributes(test.pixels)
    scores = []
    for name in STAINS:
        rows, tested = np.isfinite(asked[name]), np.isfinite(truth[name])
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9)))
        ridge.fit(known[rows], asked[name][rows])
        scores.append(ridge.score(target[tested], truth[name][tested]))
    return round(float(np.mean(scores)), 3)


def time_encoder(encoder: Encoder, pixels: np.ndarray) -> float:
    """Returns images per second on one thread, the best of three."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder.encode(pixels[:16])
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        encoder.encode(pixels)
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return round(len(pixels) / min(seconds), 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns all numbers, set by set."""
    sets = {
        name: [
            measures.read_set(options.data / name / part, options.size, FITS.get(name, "resize"))
            for part in ("train", "test")
        ]
        for name in options.sets
    }
    found: dict[str, Any] = {
        "size": options.size,
        "draws": options.draws,
        "images": {name: [len(part) for part in parts] for name, parts in sets.items()},
        "classes": {name: len(np.unique(parts[0].labels)) for name, parts in sets.items()},
        "encoders": {},
    }
    pixels = np.resize(next(iter(sets.values()))[1].pixels, (TIMED, options.size, options.size, 3))
    for spec in options.encoders:
        key, encoder = find_encoder(spec)
        found["encoders"][key] = {
            "encoder": encoder.describe(),
            "images_per_second": time_encoder(encoder, pixels),
            "sets": {name: measure_set(encoder, *parts, options) for name, parts in sets.items()},
        }
    return found


def write_tables(found: dict[str, Any], shots: list[int]) -> Iterator[str]:
    """Yields a table of the encoders and one for each set."""
    encoders = found["encoders"]
    rows = [
        [name, one["encoder"]["dim"], one["images_per_second"]] for name, one in encoders.items()
    ]
    yield measures.write_table(
        f"Encoders, {found['size']} px, one thread", ["encoder", "features", "images/s"], rows
    )
    headers = ["encoder", "all training images (95 %)"]
    headers += [f"{count} shots (95 % of draws)" for count in shots] + ["stain R2"]
    for name, (known, tested) in found["images"].items():
        title = (
            f"{name}: balanced accuracy, {found['classes'][name]} classes, {known:,} training and "
            f"{tested:,} test images, {found['draws']} draws of shots"
        )
        yield measures.write_table(
            title,
            headers,
            [[key, *_list_cells(one["sets"][name], shots)] for key, one in encoders.items()],
        )


def _list_cells(one: dict[str, Any], shots: list[int]) -> list[str]:
    cells = [_write(one["balanced_accuracy"], one["interval"])]
    for count in shots:
        part = one[f"shots_{count}"]
        cells.append("too few" if part is None else _write(part["mean"], part["interval"]))
    return [*cells, f"{one['stain_r2']:.2f}"]


def _write(value: float, interval: list[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def read_options() -> argparse.Namespace:
    """Parses the command line."""
    lists = {"encoders": list(ENCODERS), "sets": list(SETS), "shots": [5, 10]}
    parser = measures.make_parser(__doc__, **lists, size=64, draws=20, seed=1)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    options = read_options()
    found = measure(options)
    measures.tell(found, options.json, "\n".join(write_tables(found, options.shots)))


if __name__ == "__main__":
    main()
