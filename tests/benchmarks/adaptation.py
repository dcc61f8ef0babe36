"""Measures few-shot adaptation: does `factory train adapter` reach a domain and keep its classes?

    python tests/benchmarks/adaptation.py --real PATH/cervix-lbc4 [--real PATH/oral-oscc]
        [--base nano-he-base] [--shots 10] [--seeds 1] [--sheets DIR] [--json FILE] [-- OPTIONS]

Each PATH is an ImageFolder of `train/` and `test/` with a folder for each class. For each set and
seed the base is adapted to `--shots` training images of each class by the command itself; what
follows `--` goes to it as it is. Then its samples are compared with the real test images, of which
the adaptation knows nothing, beside samples of the base and classical augmentations of the very
same shots. Real images are resized to the model's size. No filter is used and nothing is picked.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from control import caption_images
from measures import (
    RANDOM,
    TRAINED_BY,
    Images,
    Sampler,
    augment,
    compare_copies,
    find_interval,
    fit_classifier,
    make_parser,
    read_images,
    read_set,
    resample_scores,
    score_classes,
    summarise_copies,
    tell,
    write_table,
)
from numpy.typing import NDArray
from sheets import Row, save_sheets
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from factory.catalog.catalog import load_catalogs
from factory.core.hashing import derive_seed, hash_bytes
from factory.core.metrics import compute_fd, compute_kid
from factory.data.images import list_images
from factory.models.encoders import load_encoder

ORGANS = {"oral-oscc": "oral mucosa", "pcam-mini": "lymph node", "crc-val-7k-tiny": "colon"}
"""What the caption catalog calls the organ of a set; a base may have seen it unlabelled."""

COMPONENTS = 32
"""Principal components of the standardised features of the real training images that the Fréchet
distance is taken in: it needs fewer dimensions than the smallest test set has images (105). The
kernel distance takes all features, standardised on the real training images."""

BASES = ("base, asked by captions of the shots", "base, no condition")
_COLUMNS = 6


@dataclass(frozen=True)
class Domain:
    """Real images of one set, at the model's size; `shots` are some of `train`."""

    name: str
    train: Images
    test: Images
    is_shot: NDArray[np.bool_]

    @property
    def shots(self) -> Images:
        """What the model was adapted to."""
        return self.train.take(np.flatnonzero(self.is_shot))


def adapt(options: argparse.Namespace, real: Path, out: Path, seed: int) -> dict[str, Any]:
    """Runs the command; returns what it says of itself. It resumes what an earlier call left."""
    command = [sys.executable, "-m", "factory", "train", "adapter", "--base", options.base]
    command += ["--data", str(real / "train"), "--shots", str(options.shots), "--fit", "resize"]
    command += ["--seed", str(seed), "--out", str(out), "--json"]
    for folder in options.catalog:
        command += ["--catalog", str(folder)]
    done = subprocess.run([*command, *options.rest], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout)


def read_domain(real: Path, size: int, card: Path) -> Domain:
    """Reads a set; the adapter's card tells the shots by the hashes of their files."""
    shots = set(re.findall(r"^\| [^|]+ \| `([0-9a-f]{64})` \|", card.read_text("utf-8"), re.M))
    listed = list_images(real / "train")
    is_shot = np.array([hash_bytes(image.read_bytes()) in shots for image in listed])
    if not shots or is_shot.sum() < len(shots):
        raise SystemExit(
            f"{card}: names {len(shots)} shots, of which {is_shot.sum()} are in {real}"
        )
    train = read_images(listed, size, "resize")
    return Domain(real.name, train, read_set(real / "test", size, "resize"), is_shot)


def sample_base(
    sampler: Sampler, grid: Any, domain: Domain, count: int, seed: int
) -> dict[str, Images]:
    """Samples the unadapted base, asked as well as it can be, and without any condition.

    The captions name what is measured in the shots, and the organ where the catalog has it.
    """
    organ = ORGANS.get(domain.name)
    shown = np.resize(domain.shots.pixels, (count, *domain.shots.pixels.shape[1:]))
    captions = caption_images(grid, shown, {"organ": organ} if organ else {}, seed)
    return {
        BASES[0]: sampler.sample_captions(captions, seed),
        BASES[1]: sampler.sample_captions([""] * count, seed),
    }


def draw_like(images: Images, labels: NDArray[np.str_], seed: int) -> Images:
    """Draws images with these labels, repeating only where a class has too few."""
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "like"))
    rows = [
        np.resize(draw.permutation(np.flatnonzero(images.labels == name)), (labels == name).sum())
        for name in np.unique(labels)
    ]
    return images.take(np.concatenate(rows))


def measure_run(
    options: argparse.Namespace, domain: Domain, base: Sampler, adapted: Sampler, seed: int
) -> dict[str, Any]:
    """Returns the numbers of one adaptation."""
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "labels"))
    labels = np.resize(draw.permutation(domain.test.labels), options.images)
    others = domain.train.take(np.flatnonzero(~domain.is_shot))
    grid = load_catalogs().find_captions("he-attributes")
    sets = {
        "adapted": adapted.sample_classes(labels, seed),
        **sample_base(base, grid, domain, options.images, seed),
        "shots augmented": augment(draw_like(domain.shots, labels, seed), options.images, seed),
        "real train": draw_like(others, labels, seed),
    }
    found: dict[str, Any] = {"shots": int(domain.is_shot.sum()), "test": len(domain.test)}
    for name in options.encoders:
        found[name] = measure_features(load_encoder(name), domain, sets, seed)
    shots = domain.shots.pixels
    compared = {**sets, "real test": domain.test}
    del compared["shots augmented"]
    found["copies"] = {
        name: summarise_copies(compare_copies(images.pixels, shots))
        for name, images in compared.items()
    }
    if options.sheets:
        found["sheets"] = draw_sheets(domain, sets, options.sheets, seed)
    return found


def measure_features(
    encoder: Any, domain: Domain, sets: dict[str, Images], seed: int
) -> dict[str, Any]:
    """Returns distances to the real test images, and what a classifier of real images sees."""
    train, test = encoder.encode(domain.train.pixels), encoder.encode(domain.test.pixels)
    scale = StandardScaler().fit(train)
    few = PCA(COMPONENTS, random_state=0).fit(scale.transform(train))
    encoded = {name: encoder.encode(images.pixels) for name, images in sets.items()}
    target, distances = scale.transform(test), {}
    for name, features in encoded.items():
        scaled = scale.transform(features)
        distances[name] = {
            "fd": round(compute_fd(few.transform(scaled), few.transform(target)), 3),
            "kid": round(compute_kid(scaled, target), 4),
        }
    unadapted = min(distances[name]["fd"] for name in BASES)
    classifier = fit_classifier(train, domain.train.labels)
    truth, asked = domain.test.labels, sets["adapted"].labels
    real, seen = classifier.predict(test), classifier.predict(encoded["adapted"])
    drawn = [resample_scores(a, [b], seed)[0] for a, b in ((truth, real), (asked, seen))]
    accuracy, recognised = score_classes(truth, real), score_classes(asked, seen)
    return {
        "encoder": encoder.describe(),
        "components": COMPONENTS,
        "distances": distances,
        "fd_over_better_base": round(distances["adapted"]["fd"] / unadapted, 3),
        "class_kept": {
            "real_test_balanced_accuracy": round(accuracy, 3),
            "adapted_recognised": round(recognised, 3),
            "ratio": round(recognised / accuracy, 3),
            "ratio_interval": find_interval(drawn[1] / drawn[0]),
            "chance": round(1 / len(np.unique(truth)), 3),
            "by_class": {
                str(name): {
                    "real_test": round(float((real[truth == name] == name).mean()), 3),
                    "adapted": round(float((seen[asked == name] == name).mean()), 3),
                }
                for name in np.unique(truth)
            },
        },
    }


def draw_sheets(domain: Domain, sets: dict[str, Images], folder: Path, seed: int) -> list[str]:
    """Draws the first shots and the first samples of each class, and of the base."""
    rows: list[Row] = []
    for name in np.unique(domain.test.labels):
        for label, images in (("shots", domain.shots), ("adapted", sets["adapted"])):
            mine = images.pixels[images.labels == name][:_COLUMNS]
            rows.append((f"{name} {label}", mine))
    rows += [(name, sets[name].pixels[:_COLUMNS]) for name in BASES]
    return save_sheets(rows, folder, f"{domain.name}-{seed}")


def write_tables(found: dict[str, Any]) -> str:
    """Returns the Markdown tables of all runs."""
    parts = []
    for run in found["runs"]:
        for name in found["encoders"]:
            one, kept = run[name], run[name]["class_kept"]
            rows = [[key, value["fd"], value["kid"]] for key, value in one["distances"].items()]
            title = (
                f"{run['set']}, seed {run['seed']}: distance to {run['test']} test images, {name}"
            )
            parts.append(write_table(title, ["set", "FD", "KID"], rows))
            parts.append(
                f"\nFD over the better base: {one['fd_over_better_base']}. Asked class recognised: "
                f"{kept['adapted_recognised']} of samples, {kept['real_test_balanced_accuracy']} "
                f"of real test images, ratio {kept['ratio']} {kept['ratio_interval']} "
                f"(chance {kept['chance']})."
            )
        rows = [[name, *value.values()] for name, value in run["copies"].items()]
        headers = ["set", *run["copies"]["adapted"]]
        title = f"{run['set']}, seed {run['seed']}: similarity to the {run['shots']} shots"
        parts.append(write_table(title, headers, rows))
    return "\n".join(parts)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Adapts and measures every set with every seed."""
    catalogs = load_catalogs(options.catalog)
    base = Sampler(options.base, catalogs, {"batch_size": options.batch_size})
    runs = []
    for real in options.real:
        for seed in range(options.seeds):
            out = work / f"{real.name}-{options.shots}-{seed}"
            said = adapt(options, real, out, seed)
            adapted = Sampler(
                said["id"],
                load_catalogs([out, *options.catalog]),
                {"batch_size": options.batch_size},
            )
            domain = read_domain(real, base.size, out / "README.md")
            numbers = measure_run(options, domain, base, adapted, seed)
            about = {"set": real.name, "seed": seed, "adapter": said, "model": adapted.describe()}
            runs.append({**about, **numbers})
    return {"base": base.describe(), "encoders": options.encoders, "runs": runs}


def read_options() -> argparse.Namespace:
    """Parses the command line; what follows `--` is kept in `rest`."""
    sets = {"encoders": [RANDOM, TRAINED_BY], "images": 300, "batch_size": 32}
    parser = make_parser(__doc__, base="nano-he-base", shots=10, seeds=1, **sets)
    parser.add_argument("--real", type=Path, required=True, action="append")
    parser.add_argument("--catalog", type=Path, action="append", default=[])
    parser.add_argument("--work", type=Path, help="keeps the adapters here, to go on from")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("rest", nargs="*", help="after --: options of factory train adapter")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    options, began = read_options(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, options.work or Path(name))
    found["minutes"] = round((time.perf_counter() - began) / 60, 1)
    tell(found, options.json, write_tables(found))


if __name__ == "__main__":
    main()
