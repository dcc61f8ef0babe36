"""Commands that train: classifier, generator."""

import json
from pathlib import Path
from typing import Any, Literal

import click

from factory.cli.recipes import JSON_OPTION, SET_OPTION


@click.group()
def train() -> None:
    """Trains a classifier to filter with, or a generator from scratch."""


@train.command()
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Real images to fit on."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Classifier folder.")
@click.option("--test", type=click.Path(path_type=Path), help="Held-out images to report on.")
@click.option("--encoder", default="color-texture", show_default=True, help="Encoder id.")
@click.option(
    "--size", "image_size", type=click.IntRange(16, 1024), help="px; default: as they are."
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "resize"]),
    default="crop",
    help="Crop keeps mpp.",
    show_default=True,
)
@click.option("--group-column", help="Column of the patient or slide.")
@click.option("--group-pattern", help="Regular expression with one (group) on file names.")
@click.option("--seed", default=0, show_default=True, help="Of folds and initialisation.")
@JSON_OPTION
def classifier(
    data: Path,
    out: Path,
    test: Path | None,
    encoder: str,
    image_size: int | None,
    fit: Literal["crop", "resize"],
    group_column: str | None,
    group_pattern: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Fits a calibrated classifier on real images, for the filter `classifier`.

    DATA is an ImageFolder (one folder for each class), parquet, WebDataset tars, a folder that
    `datasets` saved, or a finished run. Folds keep the images of a patient or slide together where
    a group is given.
    """
    from factory.train.classifier import train_classifier

    report = train_classifier(
        data,
        out,
        encoder=encoder,
        image_size=image_size,
        fit=fit,
        seed=seed,
        group_column=group_column,
        group_pattern=group_pattern,
        test=test,
        progress=None if as_json else lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(report, indent=1) if as_json else format_report(report))
    if not as_json:
        click.echo(f"wrote {out}; in a recipe: {{kind: classifier, model: {out}}}")


@train.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Pipeline folder.")
@SET_OPTION
def generator(recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Trains a generator from RECIPE; the same command again resumes it."""
    from factory.train.generator import train_generator
    from factory.train.settings import TrainingRecipe
    from factory.yamlfile import apply_overrides, parse_model, read_document

    settings = parse_model(apply_overrides(read_document(recipe), overrides), TrainingRecipe)
    images = recipe.parent / settings.data.images.expanduser()
    data = settings.data.model_copy(update={"images": images})
    train_generator(
        settings.model_copy(update={"data": data}),
        out,
        lambda step, steps, loss: click.echo(f"step {step:,}/{steps:,}, loss {loss:.4f}", err=True),
    )
    click.echo(f"wrote {out}")


def format_report(report: dict[str, Any]) -> str:
    """Returns a classifier's report as lines: how well it does, on what, and every warning."""
    lines = [f"WARNING {warning}" for warning in report["warnings"]]
    for name in ("held_out", "test"):
        part = report[name]
        if part is None:
            continue
        recalls = ", ".join(f"{key} {value:.2f}" for key, value in part["per_class_recall"].items())
        auroc = "" if part["auroc"] is None else f", AUROC {part['auroc']:.3f}"
        lines.append(
            f"{name.replace('_', ' ')}, {part['images']:,} images: balanced accuracy "
            f"{part['balanced_accuracy']:.3f}{auroc}, calibration error {part['ece']:.3f}\n"
            f"  recall: {recalls}"
        )
    return "\n".join(lines)
