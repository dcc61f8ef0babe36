"""Command that says whether synthetic images help a few real ones: evaluate fewshot."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.models import CATALOG_OPTION
from factory.cli.recipes import SET_OPTION
from factory.errors import InputError, RunBrokenError

if TYPE_CHECKING:
    from factory.evaluate.fewshot.providers import Provider
    from factory.evaluate.fewshot.settings import StudySettings

_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--real", required=True, type=_PATH, help="Real training images with classes."),
    click.option("--test", type=_PATH, help="Real test images; default: a part of --real."),
    click.option(
        "--synthetic", multiple=True, type=_PATH, help="Finished run, or images with classes."
    ),
    click.option(
        "--unfiltered",
        multiple=True,
        type=_PATH,
        help="Images of no filter; default: the runs' first attempts.",
    ),
    click.option("--generator", type=_PATH, help="Recipe that is run anew for every draw."),
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
    click.option(
        "--adapt-set", multiple=True, metavar="A=B", help="Option of train adapter, e.g. steps=300."
    ),
    click.option(
        "--draws", type=_PATH, help="Folder of what is made of shots, for studies to share."
    ),
    click.option("--shots", multiple=True, type=int, help="Of each class.  [default: 5, 10]"),
    click.option("--seeds", default=5, show_default=True, help="Draws of shots and weights."),
    click.option("--first-seed", default=0, show_default=True, help="Of the first draw."),
    click.option("--arms", help="Comma-separated; default: all."),
    click.option("--per-class", type=int, help="Synthetic images of each class; default: all."),
    click.option("--counts", help="Comma-separated --per-class for a curve."),
    click.option("--steps", type=int, help="Of every arm; default: 50 epochs, at least 400."),
    click.option("--batch-size", default=32, show_default=True, help="Images in one step."),
    click.option("--learning-rate", type=float, help="At the first step."),
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
    click.option("--weights", type=_PATH, help="Local weights that the model starts from."),
    click.option("--encoder", help="Frozen encoder with a linear head, instead of --model."),
    click.option("--size", default=64, show_default=True, help="px of the square."),
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
        type=click.IntRange(1),
        help="Trainings side by side, on Ray; default: one for each of several GPUs.",
    ),
    click.option("--group-column", help="Column of the patient or slide."),
    click.option("--group-pattern", help="Regular expression with one (group) on file names."),
    click.option("--set-name", help="What catalog entries call the evaluated set."),
    click.option("--force", is_flag=True, help="Go on with leaks, and mark every table."),
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
@click.option("--out", type=_PATH, help="Folder for cells, plots and runs; the study resumes.")
@click.option("--json", "json_path", type=_PATH, help="File to write all results to.")
@CATALOG_OPTION
def fewshot(
    out: Path | None, json_path: Path | None, folders: tuple[Path, ...], **options: Any
) -> None:
    """Says whether synthetic images help a classifier of a few real ones, against control arms.

    Every arm has the same steps, batch size, initialisation and shots. Intervals are over draws and
    test images. The same command with --out resumes.
    """
    from factory.catalog import load_catalogs
    from factory.evaluate.fewshot.cells import CellStore
    from factory.evaluate.fewshot.learners import build_learner
    from factory.evaluate.fewshot.material import list_real, split_held_out
    from factory.evaluate.fewshot.plots import draw_arms, draw_curve
    from factory.evaluate.fewshot.results import build_results
    from factory.evaluate.fewshot.study import Study
    from factory.evaluate.workers import count_workers

    own = {name: options.pop(name) for name in _OWN}
    making = {name: options.pop(name) for name in _MAKING}
    settings = _make_settings(options)
    grouping = (own["group_column"], own["group_pattern"])
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
    study.run()
    results = build_results(study)
    text = json.dumps(results, indent=1) + "\n"
    store.write_file("results.json", text.encode())
    store.write_file("arms.svg", draw_arms(results))
    curve = draw_curve(results)
    if curve is not None:
        store.write_file("curve.svg", curve)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(text, encoding="utf-8")
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
    from factory.cli.loading import load_checked
    from factory.run import run_recipe

    loaded = load_checked(recipe, tuple(overrides))
    result = run_recipe(loaded, str(out), lambda outcome: None, _say, extend=True)
    if result.quarantined:
        raise RunBrokenError(f"{out}: shards failed: run the same command again to make them")
    short = [f"{part['label']} {part['accepted']}/{part['asked']}" for part in result.shortfalls]
    return f"fewer accepted than asked for ({', '.join(short)})" if short else ""


# --- tables --------------------------------------------------------------------------------------


def print_results(results: Mapping[str, Any]) -> None:
    """Prints settings, arms, differences, classes and curve of every count of shots."""
    studies = results.get("shots", {str(results["settings"]["shots"]): results})
    for study in studies.values():
        _print_study(study)


def _print_study(study: Mapping[str, Any]) -> None:
    click.echo(_describe(study["settings"]))
    for leak in study["leaks"]:
        click.echo(f"FORCED {leak}")
    metrics = list(next(iter(study["arms"].values())))
    rows = [["arm", "real", "synthetic", *(name.replace("_", " ") for name in metrics), "gain"]]
    for arm, figures in study["arms"].items():
        gain = study["relative_gain"].get(arm)
        rows.append(
            [
                _mark(arm, study),
                *_count_images(study["images"][arm]),
                *(_show(figures[name]) for name in metrics),
                "" if gain is None else f"{gain['mean']:+.1%}",
            ]
        )
    _print_rows(rows)
    if study["paired"]:
        click.echo("\ndifference in balanced accuracy")
        _print_rows([[_mark_pair(k, study), _show(v, "+")] for k, v in study["paired"].items()])
    click.echo("\nrecall by class")
    names = study["settings"]["classes"]
    rows = [["arm", *names]]
    for arm, found in study["per_class"].items():
        rows.append([_mark(arm, study), *(_show(found[name]["recall"]) for name in names)])
    _print_rows(rows)
    _print_fidelity(study)
    if study["curve"]:
        mark = "".join(f" [{each}]" for each in study["marks"].get("real+synthetic", ()))
        click.echo(f"\nreal+synthetic by synthetic images of each class{mark}")
        rows = [[str(p["per_class"]), _show(p["balanced_accuracy"])] for p in study["curve"]]
        _print_rows(rows)
    for arm, why in study["left_out"].items():
        click.echo(f"LEFT OUT {arm}: {why}", err=True)
    for note in study["notes"]:
        click.echo(f"NOTE {note}", err=True)
    click.echo()


def _print_fidelity(study: Mapping[str, Any]) -> None:
    if study["label_fidelity"]:
        click.echo(
            "\nlabel fidelity: share whose class a classifier of all real images but the shots sees"
        )
        names = study["settings"]["classes"]
        rows = [["images of", "number", "mean of classes", *names]]
        for kind, found in study["label_fidelity"].items():
            shares = [found["recall"].get(name) for name in names]
            cells = ("" if share is None else _show(share) for share in shares)
            rows.append([kind, str(found["images"]), _show(found["balanced_accuracy"]), *cells])
        _print_rows(rows)


def _describe(settings: Mapping[str, Any]) -> str:
    if settings["model"] is None:
        made = f"linear head on {settings['encoder']['id']}"
    else:
        made = f"{settings['model']} from {settings['start']}, {settings['dtype']}"
    return (
        f"{settings['shots']} shots, {len(settings['seeds'])} draws; {made}, {settings['size']} px "
        f"({settings['fit']}); {settings['steps']} steps of {settings['batch_size']} for every arm "
        f"({settings['steps_rule']}); tested on {settings['test']['images']:,} images; 95 % "
        f"intervals over {settings['interval']['resampled']}"
    )


def _mark(arm: str, study: Mapping[str, Any]) -> str:
    return arm + "".join(f" [{mark}]" for mark in study["marks"].get(arm, ()))


def _mark_pair(pair: str, study: Mapping[str, Any]) -> str:
    marks = [mark for arm in pair.split(" - ") for mark in study["marks"].get(arm, ())]
    return pair + "".join(f" [{mark}]" for mark in dict.fromkeys(marks))


def _count_images(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns real and synthetic images of an arm, over all classes, as ranges over draws."""
    cells = []
    for kind in ("real", "synthetic"):
        totals = sorted({sum(each[kind].values()) for each in images})
        low, high = totals[0], totals[-1]
        cells.append(f"{low:,}" if low == high else f"{low:,}-{high:,}")
    return cells


def _show(interval: Mapping[str, float], sign: str = "") -> str:
    """E.g. `.712 (.690-.734)`; differences with signs."""
    mean, low, high = (format(interval[name], f"{sign}.3f") for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if sign else f"{mean} ({low}-{high})"


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
