"""Measures what the default filters let through: good samples, and deliberately spoilt ones.

    python tests/benchmarks/spoilt.py --real PATH/pcam-mini [--model nano-he] [--recipe RECIPE]
        [--good 500] [--bad 500] [--work DIR] [--json FILE]

Samples good images of both classes, spoils further ones in five ways, mixes all in one ImageFolder,
and has `factory judge` decide by the recipe's filters and `training_copy` against PATH/train. Good
means: sampled and left as it is, so an image of the wrong class by the model's own fault counts as
good here. Prints what was rejected of each kind, with Wilson intervals.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from measures import Pixels, Sampler, read_set, tell, write_table
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from factory.catalog.catalog import load_catalogs
from factory.core.hashing import derive_seed

ROOT = Path(__file__).parents[2]
CLASSES = ("normal", "tumor")
KINDS = ("mislabelled", "blurred", "blank", "duplicated", "copied")


def build_folder(options: argparse.Namespace, folder: Path) -> Counter[str]:
    """Writes the mixed ImageFolder; file names tell the kind, and good ones sort first."""
    sampler = Sampler(options.model, load_catalogs(options.catalog), {})
    draw = np.random.default_rng(derive_seed(options.seed, "spoilt"))
    each = options.bad // len(KINDS)
    further = options.good + 2 * each
    labels = np.resize(CLASSES, further)
    pixels = sampler.sample_classes(labels, options.seed).pixels
    real = read_set(options.real / "train", sampler.size, "crop")
    written: Counter[str] = Counter()

    def write(kind: str, label: str, image: Pixels) -> None:
        name = f"{'good' if kind == 'good' else 'spoilt'}-{kind}-{written[kind]:05d}.png"
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / label / name)
        written[kind] += 1

    for row in range(options.good):
        write("good", labels[row], pixels[row])
    for row in range(options.good, options.good + each):
        write("mislabelled", CLASSES[1 - CLASSES.index(labels[row])], pixels[row])
    for row in range(options.good + each, further):
        sigma = draw.uniform(1.5, 3.0)
        write("blurred", labels[row], gaussian_filter(pixels[row], (sigma, sigma, 0)))
    for row, taken in enumerate(draw.choice(options.good, each, replace=False)):
        write("duplicated", labels[taken], disguise(pixels[taken], row, draw))
        write("blank", labels[row % len(labels)], make_blank(pixels[taken], row, draw))
    for row, taken in enumerate(draw.choice(len(real), each, replace=False)):
        write("copied", str(real.labels[taken]), disguise(real.pixels[taken], row, draw))
    return written


def disguise(image: Pixels, number: int, draw: np.random.Generator) -> Pixels:
    """Returns a copy as it is, turned, recompressed, or lighter or darker, in turn."""
    if number % 4 == 1:
        return np.ascontiguousarray(np.rot90(image[:, ::-1], draw.integers(4)))
    if number % 4 == 2:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=80)
        return np.asarray(Image.open(buffer).convert("RGB"))
    if number % 4 == 3:
        return (image * draw.uniform(0.92, 1.08)).clip(0, 255).astype(np.uint8)
    return image


def make_blank(image: Pixels, number: int, draw: np.random.Generator) -> Pixels:
    """Returns bare glass, grey, black, or glass with a sliver of the image, in turn."""
    ground = ((244, 242, 245), (128, 128, 128), (3, 3, 3), (244, 242, 245))[number % 4]
    noise = draw.normal(0, 2, image.shape)
    blank = (np.array(ground) + noise).clip(0, 255).astype(np.uint8)
    if number % 4 == 3:
        width = image.shape[1] // 16
        blank[:, :width] = image[:, :width]
    return blank


def judge(options: argparse.Namespace, data: Path, out: Path) -> None:
    """Runs the command on the folder."""
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    train = str((options.real / "train").resolve())
    recipe["filters"].append({"kind": "training_copy", "images": train})
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "factory", "judge", "--data", str(data), "--out", str(out)]
    command += ["--recipe", str(path)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")


def count_verdicts(out: Path) -> dict[str, Counter[str]]:
    """Returns kind -> verdict -> images: `accepted`, or the filter that rejected."""
    found: dict[str, Counter[str]] = {}
    for part in ("data", "rejected"):
        for path in sorted((out / part).glob("*.parquet")):
            for row in pq.read_table(path).to_pylist():
                name = json.loads(row["provenance"])["condition"]["given"]["name"]
                kind = Path(name).name.split("-")[1]
                verdict = "accepted" if part == "data" else row["rejected_by"]
                found.setdefault(kind, Counter())[verdict] += 1
    return found


def summarise(found: dict[str, Counter[str]]) -> dict[str, Any]:
    """Returns the share rejected of each kind and of all bad ones, with intervals."""
    bad = sum((found[kind] for kind in KINDS), Counter())
    rows = {}
    for kind, counts in [("good", found["good"]), *((k, found[k]) for k in KINDS), ("bad", bad)]:
        total = counts.total()
        rejected = total - counts["accepted"]
        interval = binomtest(rejected, total).proportion_ci(method="wilson")
        rows[kind] = {
            "images": total,
            "rejected": round(rejected / total, 4),
            "interval": [round(float(interval.low), 3), round(float(interval.high), 3)],
            "by": {name: n for name, n in counts.most_common() if name != "accepted"},
        }
    return rows


def read_options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="nano-he", help="catalog id or pipeline folder")
    parser.add_argument("--catalog", type=Path, action="append", default=[])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "judge.yaml")
    parser.add_argument("--good", type=int, default=500)
    parser.add_argument("--bad", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep folder and judged set here")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser.parse_args()


def main() -> None:
    """Builds, judges and prints."""
    options = read_options()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        data, out = work / "mixed", work / "judged"
        if not data.exists():
            build_folder(options, data)
        judge(options, data, out)
        found = summarise(count_verdicts(out))
    rows = [
        [kind, one["images"], one["rejected"], one["interval"], describe(one["by"])]
        for kind, one in found.items()
    ]
    headers = ["kind", "images", "rejected", "95 % (Wilson)", "by"]
    tell(found, options.json, write_table("What the filters reject", headers, rows))


def describe(by: dict[str, int]) -> str:
    """Returns e.g. `focus 98, classifier 2`."""
    return ", ".join(f"{name} {count}" for name, count in by.items())


if __name__ == "__main__":
    main()
