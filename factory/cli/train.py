"""Commands that train: classifier, encoder, generator, adapter."""

from pathlib import Path
from typing import Any, Literal

import click

from factory import api
from factory.cli.loading import make_say
from factory.cli.notes import list_notes
from factory.cli.options import IMAGE_COLUMN, IMAGES, NEW_FOLDER, SEED, Number
from factory.cli.recipes import JSON_OPTION, SET_OPTION
from factory.cli.shipped import RECIPE
from factory.cli.train_adapter import adapter
from factory.core.plain import write_json


@click.group()
def train() -> None:
    """Trains a classifier or encoder to filter with, a generator, or an adapter of one."""


@train.command()
@click.option("--data", required=True, type=IMAGES, help="Real images to fit on.")
@click.option("--out", required=True, type=NEW_FOLDER, help="Classifier folder.")
@click.option("--test", type=IMAGES, help="Held-out images to report on.")
@click.option("--encoder", default="color-texture", show_default=True, help="Encoder id.")
@click.option(
    "--head",
    type=click.Choice(["auto", "logistic", "knn", "prototype"]),
    default="auto",
    help="Auto: prototypes under 6 images of a class, else by cross-validation.",
    show_default=True,
)
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
@IMAGE_COLUMN
@click.option("--label-column", help="Column of the class; default: the folders, or label.")
@click.option("--group-column", help="Column of the patient or slide.")
@click.option("--group-pattern", help="Regular expression with one (group) on file names.")
@click.option(
    "--precision",
    "precisions",
    type=Number(0, 1, min_open=True, max_open=True),
    multiple=True,
    help="Print and table each class's threshold for it (printed: 0.9; tabled: the usual ones).",
)
@click.option("--force", is_flag=True, help="Write a classifier no better than chance, too.")
@click.option(
    "--seed", default=0, show_default=True, type=SEED, help="Of folds and initialisation."
)
@JSON_OPTION
def classifier(
    data: Path,
    out: Path,
    test: Path | None,
    encoder: str,
    head: Literal["auto", "logistic", "knn", "prototype"],
    image_size: int | None,
    fit: Literal["crop", "resize"],
    image_column: str | None,
    label_column: str | None,
    group_column: str | None,
    group_pattern: str | None,
    precisions: tuple[float, ...],
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Fits a calibrated classifier on real images, for the filter `classifier`.

    DATA is an ImageFolder (one folder for each class), parquet, WebDataset tars, a folder that
    `datasets` saved, or a finished run. Folds keep the images of a patient or slide together where
    a group is given. Where the classes cannot be told apart, nothing is written and the exit code
    is 1, unless forced.
    """
    from factory.train.classifier.settings import ClassifierSettings

    report = api.train_classifier(
        data,
        out,
        ClassifierSettings(
            encoder=encoder,
            head=head,
            image_size=image_size,
            fit=fit,
            seed=seed,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            group_pattern=group_pattern,
            test=test,
            precisions=precisions,
            force=force,
        ),
        say=make_say(as_json),
    )
    shown = {**report, "notes": list_notes()}
    click.echo(write_json(shown) if as_json else format_report(report))
    if report["refused"] is not None and not force:
        click.echo(f"error: {report['refused']}; nothing was written (--force does)", err=True)
        click.get_current_context().exit(1)
    if not as_json:
        for line in format_thresholds(out, precisions or (0.9,)):
            click.echo(line)
        click.echo(f"wrote {out}; in a recipe: {{kind: classifier, model: {out.absolute()}}}")


@train.command()
@click.argument("recipe", type=RECIPE)
@click.option("--out", required=True, type=NEW_FOLDER, help="Pipeline folder.")
@SET_OPTION
@JSON_OPTION
def generator(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains a generator from RECIPE; the same command again resumes it."""
    result = api.train_generator(recipe, out, overrides, _print_step)
    if result is not None:  # None in all processes but the first
        click.echo(write_json(result, indent=None) if as_json else format_training(result, out))


@train.command()
@click.argument("recipe", type=RECIPE)
@click.option("--out", required=True, type=NEW_FOLDER, help="Encoder folder.")
@SET_OPTION
@JSON_OPTION
def encoder(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains an image encoder from RECIPE without labels; the same command again resumes it."""
    result = api.train_encoder(recipe, out, overrides, _print_step)
    if as_json:
        click.echo(write_json(result, indent=None))
        return
    click.echo(
        f"wrote {out}: the weights of step {result['best_step']:,}, spread of the features "
        f"{result['feature_spread']:.2f}; next: factory train classifier --encoder {out}"
    )


def _print_step(step: int, steps: int, measured: dict[str, float]) -> None:
    click.echo(format_step(step, steps, measured), err=True)


def format_step(step: int, steps: int, measured: dict[str, float]) -> str:
    """Returns one line of progress."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
    return f"step {step:,}/{steps:,}, {values}"


def format_training(result: dict[str, Any], out: Path) -> str:
    """Returns what a training ended with."""
    if result["kid"] is None:
        return f"wrote {out}: the weights of step {result['step']:,}, not validated"
    return (
        f"wrote {out}: the weights of step {result['best_step']:,}, kernel distance to held-out "
        f"images {result['kid']:.4g}"
    )


def format_report(report: dict[str, Any]) -> str:
    """Returns a classifier's report as lines: how well it does, on what, and every warning."""
    lines = [f"WARNING {warning}" for warning in report["warnings"]]
    if report["forced"]:
        lines.append(f"WARNING {report['refused']}; written all the same, as --force says")
    lines.append(f"head: {report['head']['kind']} ({report['head']['why']})")
    for name in ("held_out", "test"):
        part = report[name]
        if part is None:
            continue
        recalls = ", ".join(f"{key} {value:.2f}" for key, value in part["per_class_recall"].items())
        auroc = "" if part["auroc"] is None else f", AUROC {part['auroc']:.3f}"
        low, high = part["balanced_accuracy_interval"]
        lines.append(
            f"{name.replace('_', ' ')}, {part['images']:,} images: balanced accuracy "
            f"{part['balanced_accuracy']:.3f} ({low:.3f} to {high:.3f}){auroc}, "
            f"calibration error {part['ece']:.3f}\n  recall: {recalls}"
        )
    return "\n".join(lines)


def format_thresholds(folder: Path, precisions: tuple[float, ...]) -> list[str]:
    """Returns, for each precision, the least probability of each class that reaches it."""
    from factory.models.classifiers.model import read_classifier_info

    thresholds = read_classifier_info(folder).thresholds
    lines = []
    for precision in precisions if thresholds else ():
        found = []
        for name, rows in (thresholds or {}).items():
            row = next((each for each in rows if each.precision == precision), None)
            if row is None:
                found.append(f"{name} never")
            else:
                found.append(f"{name} {row.probability:.2f} ({row.recall:.0%} pass)")
        lines.append(f"precision {precision:g} from a probability of: {', '.join(found)}")
    return lines


train.add_command(adapter)
