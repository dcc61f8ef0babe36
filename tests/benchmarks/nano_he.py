"""Measures nano-he against real PatchCamelyon patches: the numbers of its model card.

    python tests/benchmarks/nano_he.py --real PATH/pcam-mini [--per-class 300] [--steps N]
        [--guidance G]

Prints JSON: how often the shipped classifier sees the asked class, KID with hand-made colour and
texture features beside two references, and the use of the samples for training: a classifier
fitted on them alone, and one fitted on as many real patches, both tested on real test patches. No
filter is used.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from factory.catalog import load_catalogs
from factory.encoders import load_encoder
from factory.filters.classifier_model import load_classifier
from factory.images import decode_image
from factory.recipe_file import load_recipe
from factory.run import run_recipe
from factory.sources import iterate_pixels, list_images

CLASSES = ("normal", "tumor")
SIZE = 64


def sample(options: argparse.Namespace, folder: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Makes unfiltered samples; returns images, labels and seconds of generation per image."""
    generator = {"model": "nano-he", "batch_size": 30}
    for name in ("steps", "guidance"):
        if getattr(options, name) is not None:
            generator[name] = getattr(options, name)
    recipe = {
        "name": "measure",
        "seed": options.seed,
        "generator": generator,
        "conditions": [{"kind": "class", "per_class": options.per_class}],
        "workers": {"executor": "local"},
        "output": {"shard_size": 150},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    result = run_recipe(load_recipe(path), str(folder / "run"), lambda o: None, lambda line: None)
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "run" / "data").to_pylist()
    images = np.stack([decode_image(row["image"]["bytes"], row["sample_id"]) for row in rows])
    seconds = result.summary["seconds"]["generate"] / len(rows)
    return images, np.array([row["label"] for row in rows]), seconds


def read_real(folder: Path, per_class: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads `per_class` patches of each class, drawn by seed, or all."""
    found = list_images(folder)
    draw = np.random.default_rng(seed)
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        mine = [image for image in found if image.class_name == name]
        chosen = (
            mine
            if per_class is None
            else [mine[i] for i in draw.permutation(len(mine))[:per_class]]
        )
        images += list(iterate_pixels(chosen, SIZE))
        labels += [label] * len(chosen)
    return np.stack(images), np.array(labels)


def compute_kid(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, equation 4)."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(first), len(second)
    inner = (kernel(first, first).sum() - np.trace(kernel(first, first))) / (n * (n - 1))
    outer = (kernel(second, second).sum() - np.trace(kernel(second, second))) / (m * (m - 1))
    return float(inner + outer - 2 * kernel(first, second).mean())


def fit_and_test(images, labels, encoder, test) -> float:
    """Balanced accuracy on `test` of a logistic regression fitted on features of `images`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=2000))
    model.fit(encoder.encode(images), labels)
    return float(balanced_accuracy_score(test[1], model.predict(encoder.encode(test[0]))))


def measure(options: argparse.Namespace) -> dict:
    """Returns all numbers."""
    encoder = load_encoder("color-texture")
    train = read_real(options.real / "train", options.per_class, options.seed)
    test = read_real(options.real / "test", None, options.seed)
    with tempfile.TemporaryDirectory() as name:
        images, labels, seconds = sample(options, Path(name))
    classifier = load_classifier(load_catalogs().find_classifier_folder("pcam"))
    probability = classifier.predict_probabilities(images)[np.arange(len(labels)), labels]
    test_probability = classifier.predict_probabilities(test[0])[np.arange(len(test[1])), test[1]]
    features = encoder.encode(test[0])
    scaler = StandardScaler().fit(features)
    target = scaler.transform(features)

    def kid(pixels: np.ndarray) -> float:
        return round(compute_kid(scaler.transform(encoder.encode(pixels)), target), 4)

    blurred = np.stack([gaussian_filter(image, (2, 2, 0)) for image in test[0]])
    return {
        "samples": len(labels),
        "seconds_per_sample": round(seconds, 3),
        "asked_class_recognised": round(float((probability > 0.5).mean()), 3),
        "asked_class_recognised_real_test": round(float((test_probability > 0.5).mean()), 3),
        "per_class_recognised": {
            name: round(float((probability[labels == label] > 0.5).mean()), 3)
            for label, name in enumerate(CLASSES)
        },
        "accepted_at_0.6": round(float((probability >= 0.6).mean()), 3),
        "kid_samples": kid(images),
        "kid_real_train": kid(train[0]),
        "kid_blurred_test": kid(blurred),
        "trained_on_samples": round(fit_and_test(images, labels, encoder, test), 3),
        "trained_on_as_many_real": round(fit_and_test(*train, encoder, test), 3),
    }


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=300)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=1)
    began = time.perf_counter()
    result = measure(parser.parse_args())
    print(json.dumps(result | {"minutes": round((time.perf_counter() - began) / 60, 1)}, indent=1))


if __name__ == "__main__":
    main()
