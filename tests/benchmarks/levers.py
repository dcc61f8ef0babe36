"""Measures what carries a class from a few shots into images: label fidelity beside utility.

    python tests/benchmarks/levers.py --real PATH/pcam-mini:crop --real PATH/cervix-lbc4:resize
        --out DIR [--lever guided-.85 ...] [--shots 10] [--seeds 3] [--per-class 60] [--json FILE]
        [--tune] [--group 'cervix-lbc4=^(.+)_'] [--most 300] [--set generator.steps=6]

Each PATH is an ImageFolder of `train/` and `test/`, and how it is brought to the model's size. For
each set and lever `factory evaluate fewshot` makes images anew from the shots of every draw, and
trains a linear head on features of `he-ssl-eval`, which neither filters nor guides; with `--tune`
logistic regression and prototypes on the same features, tuned inside the shots, with and without
augmentation. The draws and their shots are the same for all levers, and so are the classifiers and
adapters made of the shots (`--draws`, by default in `--out`). Levers that read unlabelled images
get the training images, whose classes are not read; `--group` says where file names of a set have
the patient or slide. Label fidelity is how often a classifier of all real training images but the
shots takes the images for their class; beside it stands what it makes of real test images, and how
well synthetic and test images are told apart. What is in `--out` already is not made again.
"""

import argparse
import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from factory.cli import main as run_factory
from factory.core.hashing import hash_bytes
from factory.data.shots import PixelReader, list_real
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.making import measure_gap
from factory.evaluate.fewshot.synthetic import join_sets, read_synthetic
from factory.models.encoders import load_encoder

ROOT = Path(__file__).parent.parent.parent
TOKEN = ("--set", 'conditions=[{"kind": "class", "per_class": 1}]')
TOKEN += ("--set", 'filters.training_copy.images="@shots"')
ADAPT = ("--adapt", "nano-he-base", "--adapt-set", "steps=200", "--adapt-set", "check_every=100")
POOL = "POOL"
"""In the options of a lever: the training images, whose classes are not read."""


@dataclass(frozen=True)
class Lever:
    """A recipe, and options of its study. `synthetic_unfiltered` of each shows it without filter.

    Attributes:
        options: of the study.
        recipe: in `recipes/`.
        pool: field that says where unlabelled images are.
        is_sized: whether the recipe brings the shots to the model's size.
    """

    options: tuple[str, ...] = ()
    recipe: str = "few-shot-variations"
    pool: str | None = None
    is_sized: bool = True


def _vary(strength: float) -> tuple[str, ...]:
    return ("--set", f"conditions.0.strength={strength}")


def _guide(strength: float) -> tuple[str, ...]:
    """The filter has another encoder than the guide, which would find what it put there."""
    guide = ("--set", "generator.classifier_guidance.model=x")
    strong = ("--set", "generator.classifier_guidance.scale=100")
    return (*_vary(strength), *guide, *strong, "--filter-encoder", "color-texture")


_STAINS = ("few-shot-stains", "stains.images")
_LOOKS = ("few-shot-translated", "to.domain")
_BETWEEN = ("--filter-encoder", "color-texture", "--set", 'filters.training_copy.images="@shots"')
_AGAIN = ("--set", "conditions.0.method=image_to_image", *_vary(0.5))

LEVERS = {
    "varied-.3": Lever(_vary(0.3)),
    "varied-.5": Lever(_vary(0.5)),
    "varied-.7": Lever(_vary(0.7)),
    "varied-.85": Lever(_vary(0.85)),
    "guided-.5": Lever(_guide(0.5)),
    "guided-.7": Lever(_guide(0.7)),
    "guided-.85": Lever(_guide(0.85)),
    "adapted-token": Lever((*ADAPT, *TOKEN), is_sized=False),
    "adapted-.7": Lever((*ADAPT, *_vary(0.7))),
    "adapted-guided-.85": Lever((*ADAPT, *_guide(0.85))),
    "stained-.2": Lever(_vary(0.2), *_STAINS),
    "stained-.5": Lever(_vary(0.5), *_STAINS),
    "stained-guided-.7": Lever(_guide(0.7), *_STAINS),
    "translated": Lever((), *_LOOKS),
    "translated-noise-.5": Lever(_AGAIN, *_LOOKS),
    "between": Lever(_BETWEEN, "few-shot-between"),
    "neighbours-.4": Lever(_vary(0.4), "few-shot-neighbours", "unlabelled.images"),
}


def thin(path: Path, most: int | None, out: Path) -> Path:
    """Returns the set, or a copy with so many images of each class and part, by their names."""
    if most is None:
        return path
    root = out / "sets" / path.name
    for part in ("train", "test"):
        for folder in sorted((path / part).iterdir()):
            names = sorted(folder.iterdir(), key=lambda file: hash_bytes(file.name.encode()))
            (root / part / folder.name).mkdir(parents=True, exist_ok=True)
            for file in names[:most]:
                shutil.copyfile(file, root / part / folder.name / file.name)
    return root


def write_words(options: argparse.Namespace, path: Path, fit: str, lever: Lever) -> list[str]:
    """Returns the command of a study, but for where it lands."""
    words = ["evaluate", "fewshot", "--real", f"{path}/train", "--test", f"{path}/test"]
    words += ["--fit", fit, "--set-name", path.name, "--fit-filter", "--encoder", "he-ssl-eval"]
    words += ["--generator", str(ROOT / "recipes" / f"{lever.recipe}.yaml")]
    words += ["--set", f"conditions.0.fit={fit}"] if lever.is_sized else []
    words += [word for each in ("budget.attempts=8", *options.set) for word in ("--set", each)]
    pattern = dict(each.split("=", 1) for each in options.group).get(path.name)
    words += [] if pattern is None else ["--group-pattern", pattern]
    if lever.pool is not None:
        words += ["--set", f"conditions.0.{lever.pool}={json.dumps(f'{path}/train')}"]
        if pattern is not None:
            place = f"conditions.0.{lever.pool.rpartition('.')[0]}.group_pattern"
            words += ["--set", f"{place}={json.dumps(pattern)}"]
    words += ["--shots", str(options.shots), "--seeds", str(options.seeds)]
    words += ["--per-class", str(options.per_class), *lever.options]
    if options.tune:
        words += ["--tune", "logistic,prototype", "--folds", "3"]
        words += ["--arms", "real,real+synthetic,real+synthetic_unfiltered"]
    return words


def measure(options: argparse.Namespace, real: str, name: str) -> dict[str, Any] | None:
    """Runs the study of a set and a lever, or reads it where it is done; None: it cannot be run."""
    given, _, fit = real.partition(":")
    path, lever = thin(Path(given), options.most, options.out), LEVERS[name]
    called = f"{path.name}-{name}"
    found = options.out / f"{called}.json"
    if not found.is_file():
        words = write_words(options, path, fit or "crop", lever)
        words += ["--out", str(options.out / called), "--json", str(found)]
        words += ["--draws", str(options.draws or options.out / "draws")]
        code = run_factory(words, standalone_mode=False)
        if code:
            print(f"LEFT OUT {called}: factory {' '.join(words)} ended with {code}", flush=True)
            return None
    study: dict[str, Any] = json.loads(found.read_text("utf-8"))
    runs = [Path(folder) for draw in study["sources"] for folder in draw["folders"]]
    made, kept = _count(runs, "rejected"), _count(runs, "data")
    told = {"set": path.name, "lever": name, "kept": kept, "made": made + kept, **study}
    return {**told, "gap": tell_apart(path, fit or "crop", runs)} if options.tune else told


@functools.cache
def load_bank() -> FeatureBank:
    """Returns the features by which sets are told apart, each image encoded once."""
    return FeatureBank(load_encoder("he-ssl-eval"), lambda line: None)


def tell_apart(path: Path, fit: str, runs: list[Path]) -> dict[str, Any] | None:
    """Measures how well accepted images of all draws and test images are told apart."""
    made = join_sets([read_synthetic(run) for run in runs]).images
    test = list_real(path / "test")
    return measure_gap(made, test, PixelReader(64, fit), load_bank(), "he-ssl-eval")


def _count(runs: list[Path], folder: str) -> int:
    files = (path for run in runs for path in (run / folder).glob("*.parquet"))
    return sum(pq.read_metadata(path).num_rows for path in files)


def show(figure: dict[str, float], sign: str = "") -> str:
    """Writes a figure with its interval."""
    return f"{figure['mean']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def print_table(found: list[dict[str, Any]]) -> None:
    """Prints one row for each set and lever."""
    columns = ["set", "lever", "kept / made", "label fidelity: real test", "unfiltered", "filtered"]
    columns += ["utility: real", "real+synthetic - real", "synthetic - real"]
    _print_row(columns)
    _print_row(["---"] * len(columns))
    for each in found:
        judged, paired = each["label_fidelity"], each["paired"]
        kinds = ("real test images", "synthetic_unfiltered", "synthetic")
        cells = [each["set"], each["lever"], f"{each['kept']:,} / {each['made']:,}"]
        cells += [f"{judged[kind]['balanced_accuracy']['mean']:.2f}" for kind in kinds]
        cells += [f"{each['arms']['real']['balanced_accuracy']['mean']:.3f}"]
        cells += [show(paired[f"{arm} - real"], "+") for arm in ("real+synthetic", "synthetic")]
        _print_row(cells)


def print_tuned(found: list[dict[str, Any]]) -> None:
    """Prints one row for each set and lever: all arms tuned, gains over the best baseline."""
    columns = ["set", "lever", "kept / made", "label fidelity: unfiltered, filtered; shots, test"]
    columns += ["gap to test: training, synthetic", "real", "real+classical (best baseline)"]
    columns += ["real+synthetic", "- best baseline", "real+synthetic+classical - best baseline"]
    _print_row(columns)
    _print_row(["---"] * len(columns))
    for each in found:
        judged, tuned = each["label_fidelity"], each["tuned"]
        kinds = ("synthetic_unfiltered", "synthetic", "real shots", "real test images")
        told = [
            f"{judged[kind]['balanced_accuracy']['mean']:.2f}" for kind in kinds if kind in judged
        ]
        gaps = [each.get("domain_gap"), each["gap"]]
        arms = {name: arm["balanced_accuracy"] for name, arm in tuned["arms"].items()}
        cells = [
            each["set"],
            each["lever"],
            f"{each['kept']:,} / {each['made']:,}",
            ", ".join(told),
        ]
        cells += [", ".join("–" if gap is None else f"{gap['auroc']['mean']:.2f}" for gap in gaps)]
        cells += [f"{arms[name]['mean']:.3f}" for name in ("real", "real+classical")]
        cells += [f"{arms['real+synthetic']['mean']:.3f}" if "real+synthetic" in arms else "–"]
        for arm in ("real+synthetic", "real+synthetic+classical"):
            gain = tuned["paired"].get(f"{arm} - real+classical")
            cells.append("–" if gain is None else show(gain, "+"))
        _print_row(cells)


def _print_row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measures all sets and levers asked for, and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="append", required=True, metavar="PATH:FIT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=Path)
    parser.add_argument("--lever", action="append", choices=list(LEVERS))
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--group", action="append", default=[], metavar="SET=PATTERN")
    parser.add_argument("--most", type=int, help="images of each class and part")
    parser.add_argument("--set", action="append", default=[], help="of all recipes", metavar="A=B")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    levers = options.lever or list(LEVERS)
    measured = [measure(options, real, lever) for real in options.real for lever in levers]
    found = [each for each in measured if each is not None]
    (print_tuned if options.tune else print_table)(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
