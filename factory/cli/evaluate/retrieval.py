"""Command that measures what pairs teach an image-text model: evaluate retrieval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from factory.cli.evaluate.fidelity import say
from factory.cli.options import (
    COUNT,
    DRAWS,
    IMAGE_COLUMN,
    IMAGES,
    MANY,
    NEW_FILE,
    NEW_FOLDER,
    RATE,
    WORKERS,
)


@click.command()
@click.option(
    "--synthetic",
    required=True,
    type=IMAGES,
    help="Image-caption pairs to tune on: a finished run, parquet, WebDataset tars, or a folder.",
)
@click.option("--held-out", required=True, type=IMAGES, help="Pairs to search, best real.")
@click.option("--real", type=IMAGES, help="Real pairs for the arm real.")
@IMAGE_COLUMN
@click.option("--caption-column", help="Column of the captions; default: caption, txt or text.")
@click.option("--group-column", help="Column of the patient or slide in real and held-out pairs.")
@click.option("--group-pattern", help="The same by a regular expression with one (group) on names.")
@click.option(
    "--model",
    default="tiny",
    show_default=True,
    help="Tiny, an architecture of open_clip, hf-hub:OWNER/NAME, or local-dir:FOLDER.",
)
@click.option("--pretrained", help="Tag or file of an architecture's weights; none: random ones.")
@click.option(
    "--arms", help="Comma-separated; default: untuned,synthetic,shuffled and, if given, real."
)
@click.option("--epochs", default=5, show_default=True, type=COUNT, help="Passes.")
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(2, 100_000),
    help="Pairs per step.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=RATE,
    help="Peak; default: 1e-3 from random weights, 1e-5 from pretrained ones.",
)
@click.option("--pairs", type=click.IntRange(2, MANY), help="Train on this many, picked by hash.")
@click.option("--seeds", default=3, show_default=True, type=DRAWS, help="Repetitions of each arm.")
@click.option(
    "--loaders",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Processes that load pairs.",
)
@click.option(
    "--workers",
    type=WORKERS,
    help="Tunings side by side, on Ray; default: one for each of several GPUs.",
)
@click.option("--device", default="auto", show_default=True, help="Auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Auto: bf16 on CUDA, else fp32.",
)
@click.option(
    "--on-leak",
    type=click.Choice(["drop", "refuse"]),
    default="drop",
    show_default=True,
    help="Held-out pairs whose image, caption, patient or slide is in training.",
)
@click.option("--out", type=NEW_FOLDER, help="Folder that keeps what is done, to resume.")
@click.option("--json", "file", type=NEW_FILE, help="Write all figures there.")
def retrieval(
    synthetic: Path,
    held_out: Path,
    real: Path | None,
    image_column: str | None,
    caption_column: str | None,
    group_column: str | None,
    group_pattern: str | None,
    model: str,
    pretrained: str | None,
    arms: str | None,
    epochs: int,
    batch_size: int,
    learning_rate: float | None,
    pairs: int | None,
    seeds: int,
    loaders: int,
    workers: int | None,
    device: str,
    precision: str,
    on_leak: Literal["drop", "refuse"],
    out: Path | None,
    file: Path | None,
) -> None:
    """Tunes an image-text model on pairs and searches held-out pairs with it, both ways.

    R@k: how often a right answer is among the k best. I2T finds captions for an image, T2I images
    for a caption. An image answers every caption equal to its own.
    """
    from factory import api
    from factory.evaluate.retrieval.pairs import Columns
    from factory.evaluate.retrieval.settings import RetrievalSettings
    from factory.evaluate.retrieval.study import RetrievalOptions
    from factory.evaluate.workers import count_workers

    settings = RetrievalSettings(
        model=model,
        pretrained=pretrained,
        arms=tuple(part.strip() for part in arms.split(",")) if arms else (),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seeds=seeds,
        pairs=pairs,
        loaders=loaders,
        device=device,
        precision=precision,
    )
    options = RetrievalOptions(
        real=real,
        columns=Columns(caption_column, group_column, group_pattern, image_column),
        on_leak=on_leak,
        out=out,
        workers=count_workers(workers, device),
    )
    report = api.evaluate_retrieval(synthetic, held_out, settings, options, file, say)
    show(report)


def show(report: Mapping[str, Any]) -> None:
    """Prints the tables of a report, and its notes."""
    for line in format_report(report):
        click.echo(line)
    for note in report["notes"]:
        click.echo(f"NOTE {note}", err=True)


def format_report(report: Mapping[str, Any]) -> list[str]:
    """Returns the tables of a report as lines, in per cent."""
    settings, gallery = report["settings"], report["gallery"]
    metrics = list(report["chance"])
    heads = [f"{name[:3].upper()} {name[4:].upper()}" for name in metrics]
    lines = [
        f"{settings['model']} ({settings['weights']} weights), {settings['pairs']:,} pairs, "
        f"{settings['epochs']} epochs, batches of {settings['batch_size']}, "
        f"{settings['seeds']} seed(s)",
        f"gallery: {gallery['images']:,} images, {gallery['captions']:,} captions",
        "",
    ]
    rows = [["%, 95 % interval over captions and seeds", *heads]]
    rows += [[arm, *(_show(of[name]) for name in metrics)] for arm, of in report["arms"].items()]
    rows.append(["(chance)", *(f"{100 * report['chance'][name]:.1f}" for name in metrics)])
    rows += [
        [pair, *(_show(of[name]) for name in metrics)] for pair, of in report["paired"].items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return lines


def _show(interval: Mapping[str, float]) -> str:
    """E.g. `12.5 (9.8 to 15.3)`."""
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
