"""What filters cost beside sampling: milliseconds per image, one after the other in one process.

    python tests/benchmarks/filter_cost.py --real PATH/pcam-mini [--model nano-he] [--images 128]
        [--batch 16] [--rounds 3] [--json FILE]

Each round samples a batch after batch and scores it by every filter alone, so that a noisy machine
hurts all; the median over rounds is printed. `realism` compares with PATH/train in the features of
the shipped encoder `he-ssl`, whose features of the real images are not counted: they are computed
once. `classifier (he-ssl)` is fitted here on PATH/train with the same encoder, so `together` (all
filters as a recipe would have them) asks it once for each image.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import Sampler, tell, write_table
from pydantic import TypeAdapter

from factory.catalog.catalog import load_catalogs
from factory.data.records import Condition, Sample
from factory.filters import build_filters, score_all
from factory.models.session import Session
from factory.recipe.recipe import AnyFilter
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier

CLASSES = ("normal", "tumor")


def list_filters(real: Path, fitted: Path) -> dict[str, dict[str, Any]]:
    """Returns name -> settings of every filter that works offline."""
    return {
        "finite": {"kind": "finite"},
        "tissue": {"kind": "tissue"},
        "stain": {"kind": "stain"},
        "color_cast": {"kind": "color_cast"},
        "focus": {"kind": "focus", "max_blur": 0.65},
        "classifier (pcam)": {"kind": "classifier", "model": "pcam"},
        "classifier (he-ssl)": {"kind": "classifier", "model": str(fitted)},
        "realism (he-ssl)": {
            "kind": "realism",
            "images": str(real / "train"),
            "encoder": "he-ssl",
            "min_realism_quantile": 0.01,
        },
        "training_copy": {"kind": "training_copy", "images": str(real / "train")},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Takes turns and returns milliseconds per image."""
    sampler = Sampler(options.model, load_catalogs(), {"batch_size": options.batch})
    labels = np.resize(CLASSES, options.images)
    conditions = [Condition(class_name=str(name)) for name in labels]
    with tempfile.TemporaryDirectory() as name:
        fitted = Path(name) / "fitted"
        train_classifier(
            options.real / "train",
            fitted,
            ClassifierSettings(encoder="he-ssl", image_size=sampler.size),
        )
        described = list_filters(options.real, fitted)
        groups = {name: [each] for name, each in described.items()}
        groups["together"] = [
            each for name, each in described.items() if name != "classifier (pcam)"
        ]
        adapter = TypeAdapter(tuple[AnyFilter, ...])
        seconds: dict[str, list[float]] = {"sampling": []}
        for turn in range(options.rounds + 1):
            began = time.perf_counter()
            pixels = sampler.sample_classes(labels, turn).pixels
            seconds["sampling"].append(time.perf_counter() - began)
            samples = [Sample(each) for each in pixels]
            for key, settings in groups.items():
                if turn == 0:
                    parsed = adapter.validate_python(settings)
                    groups[key] = list(build_filters(parsed, Session.open(Path())))
                seconds.setdefault(key, []).append(time_filters(groups[key], samples, conditions))
    return summarise(seconds, options)


def time_filters(filters: list[Any], samples: list[Sample], conditions: list[Condition]) -> float:
    """Returns seconds to score all samples in batches of 16."""
    began = time.perf_counter()
    for start in range(0, len(samples), 16):
        score_all(filters, samples[start : start + 16], conditions[start : start + 16])
    return time.perf_counter() - began


def summarise(seconds: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Returns medians over all rounds but the first, which warms up, and shares of sampling."""
    medians = {key: statistics.median(values[1:]) for key, values in seconds.items()}
    rows = {
        key: {
            "ms_per_image": round(1000 * value / options.images, 3),
            "share_of_sampling": round(value / medians["sampling"], 4),
        }
        for key, value in medians.items()
    }
    return {"images": options.images, "threads": torch.get_num_threads(), "rows": rows}


def main() -> None:
    """Parses the options and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="nano-he")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options)
    rows = [(key, *each.values()) for key, each in found["rows"].items()]
    title = f"{found['images']} images a round, {found['threads']} threads"
    headers = ("what", "ms an image", "share of sampling")
    tell(found, options.json, write_table(title, headers, rows))


if __name__ == "__main__":
    main()
