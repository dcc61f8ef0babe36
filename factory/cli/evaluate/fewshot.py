"""Command that says whether synthetic images help a few real ones: evaluate fewshot."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.evaluate.fewshot_tables import print_results as show
from factory.cli.evaluate.fidelity import say
from factory.cli.models import CATALOG_OPTION
from factory.cli.options import (
    COUNT,
    DRAWS,
    IMAGE_COLUMN,
    IMAGES,
    NEW_FILE,
    NEW_FOLDER,
    PIXELS,
    RATE,
    WORKERS,
    add_options,
)
from factory.cli.recipes import SET_OPTION
from factory.cli.shipped import RECIPE
from factory.core.errors import InputError

if TYPE_CHECKING:
    from factory.evaluate.fewshot.run import FewshotSources
    from factory.evaluate.fewshot.settings import StudySettings

_OPTIONS = (
    click.option("--real", required=True, type=IMAGES, help="Real training images with classes."),
    click.option("--test", type=IMAGES, help="Real test images; default: a part of --real."),
    click.option(
        "--synthetic", multiple=True, type=IMAGES, help="Finished run, or images with classes."
    ),
    click.option(
        "--unfiltered",
        multiple=True,
        type=IMAGES,
        help="Images of no filter; default: the runs' first attempts.",
    ),
    click.option("--generator", type=RECIPE, help="Recipe that is run anew for every draw."),
    click.option(
        "--fit-filter", is_flag=True, help="Fit the recipe's classifiers on the draw's shots."
    ),
    click.option(
        "--filter-encoder", default="he-ssl", show_default=True, help="Of the one that filters."
    ),
    click.option(
        "--guide-encoder", default="he-ssl", show_default=True, help="Of the one that guides."
    ),
    click.option("--adapt", metavar="BASE", help="Adapt this model to the shots first."),
    click.option("--adapt-set", multiple=True, metavar="A=B", help="Option of train adapter."),
    click.option(
        "--draws", type=NEW_FOLDER, help="Folder of what is made of shots, for studies to share."
    ),
    click.option(
        "--shots",
        multiple=True,
        type=click.IntRange(1, 10_000),
        help="Of each class.  [default: 5, 10]",
    ),
    click.option(
        "--seeds", default=5, show_default=True, type=DRAWS, help="Draws of shots and weights."
    ),
    click.option(
        "--first-seed",
        default=0,
        show_default=True,
        type=click.IntRange(0, 2**31),
        help="Of the first draw.",
    ),
    click.option("--arms", help="Comma-separated; default: all."),
    click.option("--per-class", type=COUNT, help="Synthetic images of each class; default: all."),
    click.option("--counts", help="Comma-separated --per-class for a curve."),
    click.option("--steps", type=COUNT, help="Of every arm; default: 50 epochs, at least 400."),
    click.option(
        "--batch-size",
        default=32,
        show_default=True,
        type=click.IntRange(2, 100_000),
        help="Images in one step.",
    ),
    click.option("--learning-rate", type=RATE, help="At the first step."),
    click.option(
        "--mix",
        type=click.Choice(["pooled", "balanced", "two-stage"]),
        default="pooled",
        show_default=True,
        help="Of real and synthetic images.",
    ),
    click.option(
        "--augment",
        type=click.Choice(["none", "classical"]),
        default="none",
        show_default=True,
        help="Of all arms but `real`; `real+classical` always has it.",
    ),
    click.option("--model", default="resnet18", show_default=True, help="Of torchvision."),
    click.option("--weights", type=IMAGES, help="Local weights that the model starts from."),
    click.option("--encoder", help="Frozen encoder with a linear head, instead of --model."),
    click.option("--size", default=64, show_default=True, type=PIXELS, help="px of the square."),
    click.option(
        "--fit", type=click.Choice(["crop", "resize"]), default="crop", help="Crop keeps mpp."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        help="Of --model; auto: bfloat16 where the device computes in it.",
    ),
    click.option("--device", default="auto", show_default=True, help="Torch device."),
    click.option(
        "--workers",
        type=WORKERS,
        help="Trainings side by side, on Ray; default: one for each of several GPUs.",
    ),
    IMAGE_COLUMN,
    click.option("--group-column", help="Column of the patient or slide."),
    click.option("--group-pattern", help="Regular expression with one (group) on file names."),
    click.option("--set-name", help="What catalog entries call the evaluated set."),
    click.option("--force", is_flag=True, help="Go on with any leak, and mark every table."),
    click.option("--mark-leaks", is_flag=True, help="The same, but refuse leaks of test images."),
)
_OWN = (
    "real",
    "test",
    "synthetic",
    "unfiltered",
    "generator",
    "draws",
    "group_column",
    "group_pattern",
    "image_column",
    "workers",
)
_MAKING = ("fit_filter", "filter_encoder", "guide_encoder", "adapt", "adapt_set", "overrides")


@click.command()
@add_options(_OPTIONS)
@SET_OPTION
@click.option("--out", type=NEW_FOLDER, help="Folder for cells, plots and runs; the study resumes.")
@click.option("--json", "json_path", type=NEW_FILE, help="File to write all results to.")
@CATALOG_OPTION
def fewshot(
    out: Path | None, json_path: Path | None, folders: tuple[Path, ...], **options: Any
) -> None:
    """Says whether synthetic images help a classifier of a few real ones, against control arms.

    Every arm has the same steps, batch size, initialisation and shots. Intervals are over draws and
    test images. The same command with --out resumes.
    """
    from factory import api
    from factory.cli.evaluate.fewshot_remedy import naming_remedy

    own = {name: options.pop(name) for name in _OWN}
    sources = _make_sources(own, {name: options.pop(name) for name in _MAKING}, folders)
    settings = _make_settings(options)
    with naming_remedy():
        results = api.evaluate_fewshot(sources, settings, out, json_path, say)
    show(results)
    if out is not None:
        click.echo(f"\nall numbers: {out / 'results.json'}; plot: {out / 'arms.svg'}")


def _make_settings(options: dict[str, Any]) -> "StudySettings":
    from factory.evaluate.fewshot.settings import ARMS, StudySettings

    given = options.pop("arms")
    counts = options.pop("counts")
    arms = ARMS if given is None else tuple(each.strip() for each in given.split(","))
    try:
        points = () if counts is None else tuple(int(each) for each in counts.split(","))
    except ValueError as error:
        raise InputError(f"--counts: want numbers like 0,25,50, got {counts}") from error
    shots = options.pop("shots") or (5, 10)
    return StudySettings(shots=shots, arms=arms, counts=points, **options)


def _make_sources(
    own: dict[str, Any], making: Mapping[str, Any], folders: tuple[Path, ...]
) -> "FewshotSources":
    from factory.evaluate.fewshot.generate import Making
    from factory.evaluate.fewshot.run import FewshotSources

    recipe, plan = own.pop("generator"), None
    if recipe is not None:
        plan = Making(recipe=recipe, catalogs=folders, **making)
    elif (
        any((own["draws"], *(making[name] for name in ("fit_filter", "adapt", "adapt_set"))))
        or (making["overrides"])
    ):
        raise InputError(
            "--draws, --fit-filter, --adapt, --adapt-set, --set: belong to --generator: give it"
        )
    return FewshotSources(making=plan, catalogs=folders, **own)
