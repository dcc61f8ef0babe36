"""Do a caption recipe's images teach retrieval? Tunes the tiny CLIP on them, and searches.

    python tests/benchmarks/retrieval.py --work DIR [--count 1500] [--run FINISHED_RUN]
        [--data PATH] [--seeds 3] [--epochs 30] [--json FILE]

Makes `--count` images by `recipes/he-captions.yaml` (nano-he-base, captions of the grid
he-attributes) in `DIR/run`, or takes `--run`. Then `factory evaluate retrieval` twice:

- *synthetic*: one caption in four is held out, with its images.
- *real* (where `--data` is a folder with pcam-mini): real test patches with captions that say what
  is measured in their pixels, searched by models tuned on all synthetic pairs, on these with
  captions permuted, and on as many real training patches with measured captions.

A killed call goes on where it stopped. Prints Markdown tables.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from control import keep_templates
from measures import draw_evenly, make_parser, tell, write_table

from factory.api import run
from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import bin_attributes, write_caption
from factory.catalog.catalog import load_catalogs
from factory.core.hashing import derive_seed
from factory.core.images import encode_image
from factory.core.stains import measure_attributes
from factory.data.images import SourceImage, fit_image, list_images
from factory.evaluate.retrieval.settings import METRICS, RetrievalSettings
from factory.evaluate.retrieval.study import evaluate_retrieval
from factory.recipe.file import load_recipe

ROOT = Path(__file__).parent.parent.parent
SIZE = 64  # px, as nano-he-base makes them
HELD_OUT = 4  # one caption in so many
TOLD = {"density", "haematoxylin", "eosin"}
"""What every caption of a real patch says, at least; patches without nuclei, or with nothing but
nuclei, in which one of them cannot be measured, are left out."""


def make_images(options: argparse.Namespace) -> Path:
    """Runs the recipe, or goes on with it; returns the run folder."""
    if options.run is not None:
        return options.run
    recipe = ROOT / "recipes" / "he-captions.yaml"
    loaded = load_recipe(recipe, (f"conditions.0.count={options.count}",))
    out = options.work / "run"
    run(loaded, out, say=print)
    return out


def write_pairs(path: Path, rows: list[tuple[bytes, str]]) -> Path:
    """Writes encoded images and captions to a parquet file."""
    columns = {
        "image": [{"bytes": data, "path": None} for data, _ in rows],
        "caption": [caption for _, caption in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def split_captions(images: tuple[SourceImage, ...], folder: Path) -> tuple[Path, Path]:
    """Writes two files of pairs without a common caption; returns training and held-out pairs."""
    parts: tuple[list[tuple[bytes, str]], ...] = ([], [])
    for image in images:
        caption = str(image.caption)
        held_out = derive_seed(0, "benchmark", "retrieval", caption.lower()) % HELD_OUT == 0
        parts[held_out].append((image.read_bytes(), caption))
    names = ("train.parquet", "held-out.parquet")
    train, held_out = (write_pairs(folder / n, p) for n, p in zip(names, parts, strict=True))
    return train, held_out


def caption_real(folder: Path, path: Path, grid: CaptionGrid, count: int, seed: int) -> Path:
    """Writes real patches with captions of what is measured in their pixels.

    Args:
        folder: patches of lymph nodes, one folder per class; the class is not said.
        path: file to write.
        grid: with measures.
        count: patches at most, as many of each class.
        seed: of patches, templates and wordings.
    """
    images = list_images(folder)
    labels = np.array([str(image.class_name) for image in images])
    rows = draw_evenly(labels, min(count, len(images)), seed, f"retrieval {path.stem}")
    pixels = np.stack(
        [fit_image(images[int(row)].read_pixels(), SIZE, SIZE, "crop") for row in np.sort(rows)]
    )
    fitting, draw = keep_templates(grid, TOLD), np.random.default_rng(seed)
    named = bin_attributes(fitting, measure_attributes(pixels))
    pairs = [
        (
            encode_image(image, "png", is_synthetic=False),
            write_caption(fitting, {**values, "organ": "lymph node"}, draw),
        )
        for image, values in zip(pixels, named, strict=True)
        if values.keys() >= TOLD
    ]
    return write_pairs(path, pairs)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the reports of both studies."""
    run = make_images(options)
    images = list_images(run)
    train, held_out = split_captions(images, options.work / "pairs")
    settings = RetrievalSettings(
        epochs=options.epochs, batch_size=options.batch_size, seeds=options.seeds
    )
    found = {
        "synthetic": evaluate_retrieval(
            train, held_out, settings, say=print, out=options.work / "study-synthetic"
        )
    }
    if options.data is not None:
        grid = load_catalogs().find_captions("he-attributes")
        parts = {
            part: caption_real(
                options.data / "pcam-mini" / part,
                options.work / "pairs" / f"real-{part}.parquet",
                grid,
                count,
                seed,
            )
            for seed, (part, count) in enumerate({"train": len(images), "test": 500}.items())
        }
        found["real"] = evaluate_retrieval(
            run,
            parts["test"],
            settings,
            say=print,
            real=parts["train"],
            out=options.work / "study-real",
        )
    return found


def write_tables(found: dict[str, Any]) -> Iterator[str]:
    """Yields a table of each study."""
    headers = ["%", *(f"{name[:3].upper()} {name[4:].upper()}" for name in METRICS)]
    for name, report in found.items():
        settings, gallery = report["settings"], report["gallery"]
        rows: list[list[Any]] = [
            [arm, *(_show(of[metric]) for metric in METRICS)]
            for arm, of in (*report["arms"].items(), *report["paired"].items())
        ]
        rows.append(["(chance)", *(f"{100 * report['chance'][metric]:.1f}" for metric in METRICS)])
        title = (
            f"Held-out {name} pairs: {gallery['images']} images, {gallery['captions']} captions; "
            f"{settings['pairs']} training pairs, {settings['epochs']} epochs, "
            f"{settings['seeds']} seeds, {settings['model']}"
        )
        yield write_table(title, headers, rows)
        yield from (f"\n- {note}" for note in report["notes"])


def _show(interval: dict[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def read_options() -> argparse.Namespace:
    """Parses the command line."""
    parser = make_parser(__doc__, count=1500, seeds=3, epochs=30, batch_size=64)
    parser.add_argument("--work", type=Path, required=True, help="folder for images and results")
    parser.add_argument("--run", type=Path, help="a finished run of captioned images")
    parser.add_argument("--data", type=Path, help="folder that holds pcam-mini")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    options = read_options()
    found = measure(options)
    tell(found, options.json, "\n".join(write_tables(found)))


if __name__ == "__main__":
    main()
