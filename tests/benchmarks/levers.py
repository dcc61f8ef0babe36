"""Measures what carries a class from a few shots into images: label fidelity beside utility.

    python tests/benchmarks/levers.py --real PATH/pcam-mini:crop --real PATH/cervix-lbc4:resize
        --out DIR [--lever guided-.85 ...] [--shots 10] [--seeds 3] [--per-class 60] [--json FILE]

Each PATH is an ImageFolder of `train/` and `test/`, and how it is brought to the model's size. For
each set and lever `factory evaluate fewshot` makes images anew from the shots of every draw, and
trains a linear head on features of `he-ssl-eval`, which neither filters nor guides. The draws,
their shots and the head's steps are the same for all levers, and so are the classifiers and
adapters made of the shots (`--draws`, by default in `--out`). Label fidelity is how often a
classifier of all real training images but the shots takes the images for their class; beside it
stands what it makes of real test images. What is in `--out` already is not made again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "recipes" / "few-shot-variations.yaml"
TOKEN = ("--set", 'conditions=[{"kind": "class", "per_class": 1}]')
TOKEN += ("--set", 'filters.training_copy.images="@shots"')
ADAPT = ("--adapt", "nano-he-base", "--adapt-set", "steps=200", "--adapt-set", "check_every=100")


def _vary(strength: float) -> tuple[str, ...]:
    return ("--set", f"conditions.0.strength={strength}")


def _guide(strength: float) -> tuple[str, ...]:
    """The filter has another encoder than the guide, which would find what it put there."""
    guide = ("--set", "generator.classifier_guidance.model=x")
    strong = ("--set", "generator.classifier_guidance.scale=100")
    return (*_vary(strength), *guide, *strong, "--filter-encoder", "color-texture")


LEVERS: dict[str, tuple[str, ...]] = {
    "varied-.3": _vary(0.3),
    "varied-.5": _vary(0.5),
    "varied-.7": _vary(0.7),
    "varied-.85": _vary(0.85),
    "guided-.5": _guide(0.5),
    "guided-.7": _guide(0.7),
    "guided-.85": _guide(0.85),
    "adapted-token": (*ADAPT, *TOKEN),
    "adapted-.7": (*ADAPT, *_vary(0.7)),
    "adapted-guided-.85": (*ADAPT, *_guide(0.85)),
}
"""Lever -> options. `synthetic_unfiltered` of each shows it without the filter."""


def measure(options: argparse.Namespace, real: str, lever: str) -> dict[str, Any]:
    """Runs the study of a set and a lever, or reads it where it is done."""
    path, _, fit = real.partition(":")
    name = f"{Path(path).name}-{lever}"
    found = options.out / f"{name}.json"
    if not found.is_file():
        command = [sys.executable, "-m", "factory", "evaluate", "fewshot"]
        command += ["--real", f"{path}/train", "--test", f"{path}/test", "--fit", fit or "crop"]
        command += ["--set-name", Path(path).name, "--generator", str(RECIPE), "--fit-filter"]
        if "conditions=" not in " ".join(LEVERS[lever]):
            command += ["--set", f"conditions.0.fit={fit or 'crop'}"]
        command += ["--set", "budget.attempts=8", "--encoder", "he-ssl-eval"]
        command += ["--shots", str(options.shots), "--seeds", str(options.seeds)]
        command += ["--per-class", str(options.per_class), "--out", str(options.out / name)]
        command += ["--draws", str(options.draws or options.out / "draws")]
        command += ["--json", str(found), *LEVERS[lever]]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    study: dict[str, Any] = json.loads(found.read_text("utf-8"))
    runs = [Path(folder) for draw in study["sources"] for folder in draw["folders"]]
    made, kept = _count(runs, "rejected"), _count(runs, "data")
    return {"set": Path(path).name, "lever": lever, "kept": kept, "made": made + kept, **study}


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
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for each in found:
        judged, paired = each["label_fidelity"], each["paired"]
        kinds = ("real test images", "synthetic_unfiltered", "synthetic")
        cells = [each["set"], each["lever"], f"{each['kept']:,} / {each['made']:,}"]
        cells += [f"{judged[kind]['balanced_accuracy']['mean']:.2f}" for kind in kinds]
        cells += [f"{each['arms']['real']['balanced_accuracy']['mean']:.3f}"]
        cells += [show(paired[f"{arm} - real"], "+") for arm in ("real+synthetic", "synthetic")]
        print("| " + " | ".join(cells) + " |")


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
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    levers = options.lever or list(LEVERS)
    found = [measure(options, real, lever) for real in options.real for lever in levers]
    print_table(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
