"""The command `factory train classifier`."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.notes import list_notes
from factory.cli.options import IMAGES, NEW_FOLDER
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json


@click.command(
    cls=SettingsCommand, settings=["factory.train.classifier.settings:ClassifierSettings"]
)
@click.option("--data", required=True, type=IMAGES, help="Real images to fit on.")
@click.option("--out", required=True, type=NEW_FOLDER, help="Classifier folder.")
@JSON_OPTION
def classifier(data: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Fits a calibrated classifier on real images, for the filter `classifier`.

    DATA is an ImageFolder (one folder for each class), parquet, WebDataset tars, a folder that
    `datasets` saved, or a finished run. Folds keep the images of a patient or slide together where
    a group is given. Where the classes cannot be told apart, nothing is written and the exit code
    is 1, unless forced.
    """
    from factory.train.classifier.settings import ClassifierSettings

    settings = read_settings(ClassifierSettings, given)
    report = api.train_classifier(data, out, settings, make_say(as_json))
    shown = {**report, "notes": list_notes()}
    click.echo(write_json(shown) if as_json else format_report(report))
    if report["refused"] is not None and not settings.force:
        click.echo(f"error: {report['refused']}; nothing was written (--force does)", err=True)
        click.get_current_context().exit(1)
    if not as_json:
        for line in format_thresholds(out, settings.precisions or (0.9,)):
            click.echo(line)
        click.echo(f"wrote {out}; in a recipe: {{kind: classifier, model: {out.absolute()}}}")


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
