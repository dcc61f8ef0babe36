"""Command that says whether synthetic images help a few real ones: evaluate fewshot."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.evaluate.fewshot_tables import print_results
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
)
from factory.cli.recipes import SET_OPTION
from factory.cli.shipped import RECIPE
from factory.core.errors import InputError, RunBrokenError
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.evaluate.fewshot.providers import Provider
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


def _add_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_add_options
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
    from factory.catalog.catalog import load_catalogs
    from factory.cli.evaluate.fewshot_remedy import naming_remedy
    from factory.core.files.atomic import write_file
    from factory.data.shots import list_real, split_held_out
    from factory.evaluate.cells import CellStore
    from factory.evaluate.fewshot.learners import build_learner
    from factory.evaluate.fewshot.plots import draw_arms, draw_curve
    from factory.evaluate.fewshot.results import build_results
    from factory.evaluate.fewshot.study import Study
    from factory.evaluate.workers import count_workers

    own = {name: options.pop(name) for name in _OWN}
    making = {name: options.pop(name) for name in _MAKING}
    settings = _make_settings(options)
    grouping = (own["group_column"], own["group_pattern"], own["image_column"])
    train = list_real(own["real"], *grouping)
    if own["test"] is None:
        train, test = split_held_out(train)
    else:
        test = list_real(own["test"], *grouping)
    provider = _make_provider(own, making, settings, out, folders)
    store = CellStore(out)
    catalogs, is_split = load_catalogs(folders), own["test"] is None
    study = Study(
        settings,
        train,
        test,
        provider,
        store,
        _say,
        catalogs,
        build_learner,
        is_split,
        count_workers(own["workers"], settings.device),
        folders,
    )
    with naming_remedy():
        study.run()
    results = build_results(study)
    text = write_json(results) + "\n"
    store.write_file("results.json", text.encode())
    store.write_file("arms.svg", draw_arms(results))
    curve = draw_curve(results)
    if curve is not None:
        store.write_file("curve.svg", curve)
    if json_path is not None:
        write_file(json_path, text.encode())
    print_results(results)
    if out is not None:
        click.echo(f"\nall numbers: {out / 'results.json'}; plot: {out / 'arms.svg'}")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _make_settings(options: dict[str, Any]) -> "StudySettings":
    from factory.evaluate.fewshot.settings import ARMS, StudySettings, check_settings

    given = options.pop("arms")
    counts = options.pop("counts")
    arms = ARMS if given is None else tuple(each.strip() for each in given.split(","))
    try:
        points = () if counts is None else tuple(int(each) for each in counts.split(","))
    except ValueError as error:
        raise InputError(f"--counts: want numbers like 0,25,50, got {counts}") from error
    shots = options.pop("shots") or (5, 10)
    settings = StudySettings(shots=shots, arms=arms, counts=points, **options)
    check_settings(settings)
    return settings


def _make_provider(
    own: Mapping[str, Any],
    making: Mapping[str, Any],
    settings: "StudySettings",
    out: Path | None,
    folders: Sequence[Path],
) -> "Provider":
    from factory.evaluate.fewshot.providers import FolderProvider

    if own["generator"] is None:
        given = own["draws"], *(making[name] for name in ("fit_filter", "adapt", "adapt_set"))
        if any((*given, making["overrides"])):
            raise InputError(
                "--draws, --fit-filter, --adapt, --adapt-set, --set: belong to --generator: give it"
            )
        return FolderProvider(own["synthetic"], own["unfiltered"], folders, settings.set_name)
    if own["synthetic"] or own["unfiltered"]:
        raise InputError("--generator with --synthetic or --unfiltered: give one of them")
    folder = own["draws"] or (out and out / "draws")
    if folder is None:
        raise InputError("--generator: needs --draws or --out, where its images land")
    from factory.evaluate.fewshot.generate import Making, RecipeProvider

    plan = Making(recipe=own["generator"], catalogs=tuple(folders), **making)
    return RecipeProvider(plan, settings, folder, _run_recipe, _say)


def _run_recipe(recipe: Path, overrides: Sequence[str], out: Path) -> str:
    """Runs a recipe; returns what is short, or nothing.

    Raises:
        RunBrokenError: shards are quarantined.
    """
    from factory.api import run_recipe
    from factory.cli.loading import load_checked

    loaded = load_checked(recipe, tuple(overrides))
    result = run_recipe(loaded, str(out), lambda outcome: None, _say, extend=True)
    if result.quarantined:
        raise RunBrokenError(f"{out}: shards failed: run the same command again to make them")
    short = [f"{part.label} {part.accepted}/{part.asked}" for part in result.shortfalls]
    return f"fewer accepted than asked for ({', '.join(short)})" if short else ""
