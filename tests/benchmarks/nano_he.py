"""Measures nano-he or nano-he-base against real PatchCamelyon patches: the numbers of its card.

    python tests/benchmarks/nano_he.py --real PATH/pcam-mini [--model ID|FOLDER] [--images 1500]
        [--parts distribution,use,control,copies] [--sheets DIR] [--json FILE]

PATH/pcam-mini is an ImageFolder of `train/` and `test/`, each with `normal/` and `tumor/`. All is
compared at the model's own size (of larger patches the centre). No filter is used and nothing is
picked. Prints Markdown tables; --json keeps all numbers. A model with the classes is asked by them,
another by captions written from what is measured in real training patches.
"""

import argparse
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from control import caption_images, measure_control
from measures import (
    COPY,
    RANDOM,
    TRAINED_BY,
    Features,
    Images,
    Sampler,
    augment,
    compare_copies,
    compare_features,
    draw_evenly,
    find_interval,
    fit_classifier,
    make_parser,
    read_set,
    resample_scores,
    score_classes,
    summarise_copies,
    tell,
)
from report import write_tables
from scipy.ndimage import gaussian_filter
from sheets import draw_attributes, draw_classes, draw_references, save_sheets
from sklearn.preprocessing import StandardScaler

from factory.catalog.catalog import load_catalogs
from factory.core.thumbnails import describe_images, turn_descriptors
from factory.data.images import list_images
from factory.models.classifiers.model import load_classifier
from factory.models.encoders import load_encoder

CLASSES = ("normal", "tumor")
FACTS = {"organ": "lymph node", "magnification": "medium"}
PARTS = ("distribution", "use", "control", "copies")
FEW = 20
BLUR = 2.0
"""Sigma in px; the patches keep their scale, so that it is the same length at any crop."""
SUBSETS = 3
ENCODERS = (RANDOM, "pcam", TRAINED_BY)
"""`pcam` is the encoder of the shipped classifier: it has seen the real training patches and their
labels, took no part in training the generator, and filters nothing here."""


class Bench:
    """The model, the sets to compare, and their features, each made at the first need."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.seed = options, options.seed
        self.catalogs = load_catalogs(options.catalog)
        given = {name: getattr(options, name) for name in ("steps", "guidance", "batch_size")}
        self.sampler = Sampler(options.model, self.catalogs, given)
        self.has_classes = set(CLASSES) <= set(self.sampler.class_names)
        self.grid = self.catalogs.find_captions("he-attributes")
        self._encoders: dict[str, Any] = {}
        self._features: dict[tuple[str, str], Features] = {}

    @cached_property
    def all_train(self) -> Images:
        """All real training patches."""
        return read_set(self.options.real / "train", self.sampler.size, "crop")

    @cached_property
    def sets(self) -> dict[str, Images]:
        """The samples and what they stand beside, `--images` of each."""
        count, seed = self.options.images, self.seed
        test = read_set(self.options.real / "test", self.sampler.size, "crop")
        test = test.take(draw_evenly(test.labels, count, seed, "test"))
        train = self.all_train.take(draw_evenly(self.all_train.labels, count, seed, "train"))
        few = self.all_train.take(draw_evenly(self.all_train.labels, FEW, seed, "few"))
        blurred = np.stack([gaussian_filter(image, (BLUR, BLUR, 0)) for image in test.pixels])
        return {
            "samples": self.sample(train),
            "real train": train,
            f"{FEW} real augmented": augment(few, count, seed),
            "real test blurred": Images(blurred, test.labels),
            "real test": test,
        }

    def sample(self, train: Images) -> Images:
        """Samples as many of each class, or of captions, as real training patches are given."""
        if self.has_classes:
            return self.sampler.sample_classes(train.labels, self.seed)
        captions = caption_images(self.grid, train.pixels, FACTS, self.seed)
        return self.sampler.sample_captions(captions, self.seed)

    def find_encoder(self, name: str) -> Any:
        """Returns an encoder by its id, or that of a shipped classifier by the classifier's."""
        if name not in self._encoders:
            folder = self.catalogs.find_classifier_folder(name)
            self._encoders[name] = load_encoder(name if folder is None else str(folder))
        return self._encoders[name]

    def encode(self, encoder: str, name: str) -> Features:
        """Returns the features of a set."""
        key = (encoder, name)
        if key not in self._features:
            found = self.find_encoder(encoder).encode(self.sets[name].pixels)
            self._features[key] = found.astype(np.float64)
        return self._features[key]


def measure_distribution(bench: Bench) -> dict[str, Any]:
    """Fréchet and kernel distances to the real test patches, which standardise the features."""
    found: dict[str, Any] = {}
    for encoder in bench.options.encoders:
        scale = StandardScaler().fit(bench.encode(encoder, "real test"))
        target = scale.transform(bench.encode(encoder, "real test"))
        sets = {
            name: compare_features(scale.transform(bench.encode(encoder, name)), target)
            for name in bench.sets
            if name != "real test"
        }
        floor = sets["real train"]["fd"]
        found[encoder] = {
            "encoder": bench.find_encoder(encoder).describe(),
            "sets": sets,
            "fd_over_floor": {name: round(one["fd"] / floor, 2) for name, one in sets.items()},
        }
    return {"images": len(bench.sets["real test"]), "encoders": found}


def measure_use(bench: Bench) -> dict[str, Any]:
    """Balanced accuracy on real test patches of classifiers fitted on samples, or on real ones."""
    if not bench.has_classes:
        return {"skipped": "the model knows no class"}
    own = [encoder for encoder in (TRAINED_BY, RANDOM) if encoder in bench.options.encoders]
    return {
        "train_images": len(bench.sets["samples"]),
        "test_images": len(bench.sets["real test"]),
        "encoders": {encoder: compare_fits(bench, encoder) for encoder in own},
        "asked_class_seen_by_shipped_classifier": recognise(bench),
    }


def compare_fits(bench: Bench, encoder: str) -> dict[str, Any]:
    """Fits the classifier on each set, and on subsets; intervals are over the test images."""
    names = ("samples", "real train", f"{FEW} real augmented")
    target, truth = bench.encode(encoder, "real test"), bench.sets["real test"].labels
    fitted = [
        fit_classifier(bench.encode(encoder, name), bench.sets[name].labels).predict(target)
        for name in names
    ]
    scores = [score_classes(truth, predicted) for predicted in fitted]
    drawn = resample_scores(truth, fitted, bench.seed)
    found = {
        name: {
            "balanced_accuracy": round(score, 3),
            "interval": find_interval(values),
            "over_real": round(score / scores[1], 3),
            "over_real_interval": find_interval(values / drawn[1]),
        }
        for name, score, values in zip(names, scores, drawn, strict=True)
    }
    return {"sets": found, "subsets": measure_subsets(bench, encoder)}


def measure_subsets(bench: Bench, encoder: str) -> list[dict[str, float]]:
    """Returns the same for random two thirds of the samples and of the real patches."""
    target, truth = bench.encode(encoder, "real test"), bench.sets["real test"].labels
    rows = []
    for subset in range(SUBSETS):
        scores = {}
        for name in ("samples", "real train"):
            labels = bench.sets[name].labels
            drawn = draw_evenly(labels, len(labels) * 2 // 3, bench.seed, f"subset {subset}")
            fitted = fit_classifier(bench.encode(encoder, name)[drawn], labels[drawn])
            scores[name] = score_classes(truth, fitted.predict(target))
        ratio = scores["samples"] / scores["real train"]
        rows.append({name: round(value, 3) for name, value in {**scores, "ratio": ratio}.items()})
    return rows


def recognise(bench: Bench) -> dict[str, float]:
    """Returns how often the shipped classifier sees the asked class, and the real one in tests."""
    classifier = load_classifier(bench.catalogs.find_classifier_folder("pcam"))
    found = {}
    for name in ("samples", "real test"):
        images = bench.sets[name]
        probable = classifier.predict_probabilities(images.pixels).argmax(1)
        found[name] = round(float((np.array(CLASSES)[probable] == images.labels).mean()), 3)
    return found


def measure_captions(bench: Bench) -> dict[str, Any]:
    """How the measured attributes follow captions."""
    options = bench.options
    count, per_phrase = options.per_value, options.per_phrase
    return measure_control(bench.sampler, bench.grid, FACTS["organ"], count, per_phrase, bench.seed)


def measure_copies(bench: Bench) -> dict[str, Any]:
    """Similarity of samples to all training patches, beside that of real test patches."""
    train = bench.all_train.pixels
    similar = {
        name: compare_copies(bench.sets[name].pixels, train) for name in ("samples", "real test")
    }
    level = float(np.quantile(similar["real test"], 0.99))
    found: dict[str, Any] = {name: summarise_copies(one) for name, one in similar.items()}
    found["threshold_of_filter"], found["train_images"] = COPY, len(train)
    found["samples_nearer_than_nearest_1_percent_of_test"] = round(
        float((similar["samples"] > level).mean()), 4
    )
    if bench.options.sheets:
        nearest = np.argsort(-similar["samples"], kind="stable")[:8]
        samples = bench.sets["samples"].pixels[nearest]
        others = describe_images(train).astype(np.float32)
        turned = turn_descriptors(describe_images(samples).astype(np.float32))
        pairs = train[np.max(turned @ others.T, axis=0).argmax(1)]
        rows = [("sample", samples), ("nearest training patch", pairs)]
        found["sheets"] = save_sheets(rows, bench.options.sheets, "nearest")
    return found


def draw_sheets(bench: Bench) -> list[str]:
    """Draws what the model makes of its classes, of attributes, and of real test patches."""
    folder, sampler, seed = bench.options.sheets, bench.sampler, bench.seed
    names = draw_classes(sampler, folder, seed)
    if "control" in bench.options.parts:
        names += draw_attributes(sampler, bench.grid, FACTS["organ"], folder, seed)
    listed = list_images(bench.options.real / "test")
    return names + draw_references(sampler, listed, CLASSES, folder, seed)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns all numbers asked for."""
    bench = Bench(options)
    kinds = {
        "distribution": measure_distribution,
        "use": measure_use,
        "control": measure_captions,
        "copies": measure_copies,
    }
    found: dict[str, Any] = {part: kinds[part](bench) for part in options.parts}
    if options.sheets:
        found["sheets"] = draw_sheets(bench)
    asked = "classes" if bench.has_classes else "captions of real training patches"
    about = {"asked_by": asked, "seed": options.seed, "size": bench.sampler.size}
    return {"model": bench.sampler.describe(), **about, **found}


def read_options() -> argparse.Namespace:
    """Parses the command line."""
    lists = {"encoders": list(ENCODERS), "parts": list(PARTS)}
    counts = {"images": 1500, "per_value": 40, "per_phrase": 12, "batch_size": 32}
    parser = make_parser(__doc__, model="nano-he", seed=1, **counts, **lists)
    parser.add_argument("--real", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--catalog", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float, help="of a bare folder, which has no default")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"--parts: give some of {','.join(PARTS)}")
    return options


def main() -> None:
    """Measures and prints."""
    options, began = read_options(), time.perf_counter()
    found = measure(options)
    found["minutes"] = round((time.perf_counter() - began) / 60, 1)
    tell(found, options.json, write_tables(found))


if __name__ == "__main__":
    main()
