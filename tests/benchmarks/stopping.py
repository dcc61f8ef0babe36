"""What `budget.stop` spares, and how far the sets that it ends are from the whole ones.

    python tests/benchmarks/stopping.py RECIPE --out DIR --held-out DIR [--encoder ID]
        [--tolerance 0.02 0.05 0.1] [--every 50 100] [--set FIELD=VALUE ...] [--so-far]
        [--json FILE]

RECIPE has a section `budget.stop`. It is run once with a tolerance that ends nothing, or gone on
with in DIR (with --so-far what DIR holds is taken as it is). Every rule is then decided again over
the features that the rows keep: where a series would end, and the share of requests that it spares.
The encoder of the evaluation is another one than that of the rule, and the real images are ones
that the rule never saw. FD and KID to these are given for the ended set, for the whole one, and for
as many of the whole as were kept, the last ones instead of the first. Of a rule by utility, given
is the balanced accuracy with which what learns from each of these tells the real ones. Prints JSON.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from measures import tell

from factory.api import run
from factory.core.images import decode_image
from factory.core.metrics.frechet import compute_fd
from factory.core.metrics.growing import GrowingSet
from factory.core.metrics.kernels import compute_kid
from factory.core.metrics.teaching import TaughtSet
from factory.data.images import fit_image, list_images
from factory.data.records import SCORE_DECIMALS
from factory.engine.committed import read_markers
from factory.engine.continuing import read_outline
from factory.engine.run_folder import RunFolder
from factory.models.encoders import Encoder, load_encoder
from factory.recipe.ending import FIRST, name_unit, read_real
from factory.recipe.file import LoadedRecipe, load_recipe

NOTHING = 1e-6
"""A tolerance that ends nothing."""
Rows = dict[str, dict[int, dict[str, Any]]]


def read_accepted(url: str) -> Rows:
    """Returns series -> request -> the first accepted row, with features and image."""
    folder = RunFolder(url)
    found: Rows = {}
    for shard in read_outline(folder.require_run()).iterate_shards():
        mine = found.setdefault(shard.series, {})
        columns = ["index", "attempt", "accepted", "features", "image", "class_name"]
        for marker in read_markers(folder, shard):
            rows = folder.read_table(marker, columns).to_pylist()
            for row in sorted(rows, key=lambda each: each["attempt"]):
                if row["accepted"]:
                    mine.setdefault(row["index"], row)
    return found


def replay(rows: dict[int, dict[str, Any]], real: np.ndarray, every: int, level: float) -> Any:
    """Returns (requests, growth) of each test of a series."""
    grown, tests = GrowingSet(real), []
    for block in range((max(rows) + 1) // every):
        mine = [rows[index] for index in sorted(rows) if index // every == block]
        grown.add(np.array([row["features"] for row in mine], np.float32))
        found = grown.compare(level) if block + 1 >= FIRST else None
        if found is not None:
            tests.append(((block + 1) * every, found.round(SCORE_DECIMALS)))
    return tests


def replay_together(
    rows: Rows, real: np.ndarray, judged: tuple[np.ndarray, np.ndarray], every: int, level: float
) -> Any:
    """Returns (requests, growth) of each test of all series."""
    taught, tests = TaughtSet(real, *judged), []
    classes = sorted({row["class_name"] for mine in rows.values() for row in mine.values()})
    for block in range((max(max(mine) for mine in rows.values()) + 1) // every):
        new = [row for mine in rows.values() for i, row in mine.items() if i // every == block]
        labels = np.array([classes.index(row["class_name"]) for row in new], np.int64)
        taught.add(np.array([row["features"] for row in new], np.float32), labels)
        found = taught.compare(level, range(len(classes))) if block + 1 >= FIRST else None
        if found is not None:
            tests.append(((block + 1) * every, found.round(SCORE_DECIMALS)))
    return tests


def encode(encoder: Encoder, images: list[np.ndarray]) -> np.ndarray:
    """Returns features of images of one size."""
    blocks = (np.stack(images[start : start + 64]) for start in range(0, len(images), 64))
    return np.concatenate([encoder.encode(block) for block in blocks])


def compare(ended: np.ndarray, whole: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """Returns FD and KID of a set, and of the whole one, to real images, scaled by these."""
    spread = np.where(held.std(0) > 0, held.std(0), 1.0)
    one, other, real = ((each - held.mean(0)) / spread for each in (ended, whole, held))
    return {
        "images": len(one),
        "fd": compute_fd(one, real),
        "fd_whole": compute_fd(other, real),
        "fd_whole_of_as_many": compute_fd(other[-len(one) :], real),
        "kid": compute_kid(one, real),
        "kid_whole": compute_kid(other, real),
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the recipe, and decides again by every rule."""
    sets = [*options.set, f"budget.stop.tolerance={NOTHING}"]
    loaded = load_recipe(options.recipe, sets)
    if not options.so_far:
        run(loaded, str(options.out), say=print)
    rows, judge = read_accepted(str(options.out)), load_encoder(options.encoder)
    rule = loaded.recipe.budget.stop
    if rule is not None and rule.is_joint:
        return measure_together(loaded, rows, judge, options)
    found = []
    for series in rows.values():
        name = next(iter(series.values()))["class_name"]
        pixels = read_pixels(series)
        size = pixels[0].shape[:2]
        whole, held = encode(judge, pixels), encode(judge, read_held(options.held_out, name, size))
        real = encode_real(loaded, name, size)
        for every in options.every:
            tests = replay(series, real, every, options.confidence)
            for tolerance in options.tolerance:
                ends = [at for at, growth in tests if growth.is_within(tolerance)]
                at = ends[0] if ends else max(series) + 1
                kept = whole[: sum(index < at for index in series)]
                found.append(
                    {
                        "class": name,
                        "every": every,
                        "tolerance": tolerance,
                        "ended_at": ends[0] if ends else None,
                        "spared": 1 - at / (max(series) + 1),
                        **compare(kept, whole, held),
                        "changes": [[at, *growth.change] for at, growth in tests],
                    }
                )
    return found


def measure_together(
    loaded: LoadedRecipe, rows: Rows, judge: Encoder, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Decides again by every rule of utility, and judges what was learnt on held-out images."""
    rule = loaded.recipe.budget.stop
    assert rule is not None
    names = sorted({row["class_name"] for series in rows.values() for row in series.values()})
    series = {next(iter(mine.values()))["class_name"]: mine for mine in rows.values()}
    pixels = {name: read_pixels(series[name]) for name in names}
    size = pixels[names[0]][0].shape[:2]
    made = {name: encode(judge, pixels[name]) for name in names}
    held = [encode(judge, read_held(options.held_out, name, size)) for name in names]
    images = read_real(rule, loaded.session, names).images
    units = [*dict.fromkeys(map(name_unit, images))]
    judged = (
        np.array([names.index(str(each.class_name)) for each in images], np.int64),
        np.array([units.index(name_unit(each)) for each in images], np.int64),
    )
    real = encode_real(loaded, None, size)
    found = []
    for every in options.every:
        tests = replay_together(rows, real, judged, every, options.confidence)
        for tolerance in options.tolerance:
            ends = [at for at, growth in tests if growth.is_within(tolerance)]
            last = min(max(mine) for mine in rows.values()) + 1
            at = ends[0] if ends else last
            kept = {name: sum(index < at for index in series[name]) for name in names}
            first = [made[name][: kept[name]] for name in names]
            others = [made[name][-kept[name] :] for name in names]
            found.append(
                {
                    "every": every,
                    "tolerance": tolerance,
                    "units": len(units),
                    "ended_at": ends[0] if ends else None,
                    "spared": 1 - at / last,
                    "accuracy": judge_taught(first, held),
                    "accuracy_whole": judge_taught([made[name] for name in names], held),
                    "accuracy_whole_of_as_many": judge_taught(others, held),
                    "tests": [[at, each.after, *each.change] for at, each in tests],
                }
            )
    return found


def judge_taught(made: list[np.ndarray], held: list[np.ndarray]) -> float:
    """Returns the balanced accuracy on held-out images of what learns from features by class."""
    labels = np.repeat(np.arange(len(held)), [len(each) for each in held])
    taught = TaughtSet(np.concatenate(held), labels, np.arange(len(labels)))
    learnt = np.repeat(np.arange(len(made)), [len(each) for each in made])
    taught.add(np.concatenate(made), learnt)
    taught.add(np.zeros((0, made[0].shape[1])), learnt[:0])
    found = taught.compare(0.95, [])
    assert found is not None
    return found.before


def read_pixels(series: dict[int, dict[str, Any]]) -> list[np.ndarray]:
    """Returns the images of a series, in order."""
    return [decode_image(series[index]["image"]["bytes"], str(index)) for index in sorted(series)]


def read_held(folder: Path, name: str, size: tuple[int, ...]) -> list[np.ndarray]:
    """Returns held-out images of a class at a size."""
    images = [each for each in list_images(folder) if each.class_name == name]
    return [fit_image(each.read_pixels(), size[1], size[0], "crop") for each in images]


def encode_real(loaded: LoadedRecipe, name: str | None, size: tuple[int, ...]) -> np.ndarray:
    """Returns the features of the rule's own real images, of a class or of all."""
    rule = loaded.recipe.budget.stop
    assert rule is not None
    real = read_real(rule, loaded.session, (name,))
    encoder = loaded.session.encoders.load(rule.encoder, loaded.session.base)
    blocks = [encoder.encode(each) for each in real.iterate_blocks(size[1], size[0], rule.fit)]
    return np.concatenate(blocks)[[name in (None, each.class_name) for each in real.images]]


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--encoder", default="he-ssl-eval")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--every", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--so-far", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tell(measure(options), options.json)


if __name__ == "__main__":
    main()
