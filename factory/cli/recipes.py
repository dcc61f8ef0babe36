"""Commands on recipes: init, validate, schema, plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.notes import list_notes
from factory.cli.options import NEW_FILE, NEW_FOLDER
from factory.cli.shipped import RECIPE
from factory.core.duration import format_duration
from factory.core.errors import InputError
from factory.core.notes import listen
from factory.core.plain import write_json

SET_OPTION = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Override a field of the recipe, e.g. --set generator.steps=8. Repeatable.",
)


def write_set(text: str) -> str:
    """Returns an option that a shell passes on as it is: names of classes may hold quotes."""
    quoted = text.replace("'", "'\\''")
    return f"--set '{quoted}'"


RECIPE_ARGUMENT = click.argument("recipe", type=RECIPE)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


IDLE_SHARE_TOLD = 0.1
"""Share of idle places in first batches from which `plan` speaks of it."""


@click.command()
@click.argument("folder", type=NEW_FOLDER, default=Path())
def init(folder: Path) -> None:
    """Writes a commented starter recipe into FOLDER."""
    target = api.copy_recipe("quickstart", folder / "recipe.yaml")
    click.echo(f"wrote {target}\nnext: factory run {target} --out runs/quickstart")


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=RECIPE)
@SET_OPTION
@click.option("--files/--no-files", default=True, help="Also check the files that recipes name.")
@JSON_OPTION
def validate(
    recipes: tuple[Path, ...], overrides: tuple[str, ...], files: bool, as_json: bool
) -> None:
    """Checks RECIPES and prints every problem with file, line and field."""
    results: list[dict[str, Any]] = []
    failed = False
    for path in recipes:
        with listen() as notes:
            problems = api.validate(path, overrides, files)
        failed = failed or bool(problems)
        results.append({"recipe": str(path), "problems": problems, "notes": notes})
        if not as_json:
            for problem in problems:
                click.echo(problem, err=True)
            if not problems:
                click.echo(f"{path}: valid")
    if as_json:
        click.echo(write_json(results))
    if failed:
        click.get_current_context().exit(InputError.exit_code)


@click.command()
@click.option("--out", type=NEW_FILE, help="File to write; default: print.")
def schema(out: Path | None) -> None:
    """Writes the JSON Schema of recipes, for editors."""
    from factory.core.files.atomic import write_file

    text = json.dumps(api.schema(), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    write_file(out, text.encode())
    click.echo(f"wrote {out}")


@click.command(cls=SettingsCommand, settings=["factory.engine.cost:CostOptions"])
@RECIPE_ARGUMENT
@SET_OPTION
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    help="Sample a few images to estimate acceptance, time and disk.",
)
@click.option(
    "--speed",
    is_flag=True,
    help="Time the model in each way that its network can run here, and propose generator.speed.",
)
@JSON_OPTION
def plan(
    recipe: Path,
    overrides: tuple[str, ...],
    calibrate: bool,
    speed: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Shows what RECIPE asks for: counts, shards, expected attempts, disk, time and cost.

    What a worker costs is yours to say: --price, or --watts with --carbon. Run --speed on the
    device that will sample.
    """
    from factory.cli.loading import load_checked, make_say
    from factory.engine.cost import CostOptions, describe_costs
    from factory.recipe.licences import combine_recipe_terms

    costs = read_settings(CostOptions, given)
    loaded = load_checked(recipe, overrides)
    planned, verdict = api.plan(loaded), combine_recipe_terms(loaded)
    report = api.estimate(loaded, planned, calibrate, make_say(as_json), costs)
    if speed:
        report["speeds"] = api.measure_speeds(loaded, planned, say=make_say(as_json))
    if as_json:
        click.echo(write_json({**report, "notes": list_notes()}))
        return
    click.echo(f"{report['name']}: {report['images']:,} images in {report['shards']:,} shards")
    for part in report["series"]:
        click.echo(f"  {part['label']}: {part['count']:,}")
        for line in part.get("details", ()):
            click.echo(f"    {line}")
    for label, first in report.get("may_end", {}).items():
        click.echo(f"  {label} may end early (budget.stop), after {first:,} requests or more")
    click.echo(f"recipe sha256 {report['recipe_sha256']}")
    click.echo("what the terms of its makers let the data set be:")
    for line in verdict.describe():
        click.echo(f"  {line}")
    if report["idle_share"] > IDLE_SHARE_TOLD:
        click.echo(
            f"{report['idle_share']:.0%} of the places in first batches have no request: choose an "
            "output.shard_size and counts that are multiples of generator.batch_size"
        )
    if calibrate:
        _print_calibrated(report)
    else:
        click.echo(
            f"disk about {format_size(report['disk_gib'])}, where every first try is accepted and "
            "no image compresses (not calibrated)"
        )
    for line in describe_costs(report["costs"]) if calibrate and costs != CostOptions() else ():
        click.echo(f"  {line}")
    if speed:
        from factory.cli.speeds import print_speeds

        print_speeds(report["speeds"])


def _print_calibrated(report: Mapping[str, Any]) -> None:
    low, high = report["acceptance_ends"]
    least, most = report["expected_candidates_ends"]
    click.echo(
        f"calibrated on {report['calibration']['candidates']} candidates: acceptance "
        f"{report['acceptance']:.0%} ({low:.0%} to {high:.0%}), "
        f"{report['seconds_per_candidate']:.3f} s each\n"
        f"expect {report['expected_candidates']:,} candidates ({least:,} to {most:,}), "
        f"{format_size(report['disk_gib'])}, "
        f"{format_duration(report['expected_seconds'])} on one worker like this one"
    )


def format_size(gib: float) -> str:
    """Returns e.g. `1.5 TiB`, `12 GiB`, `0.9 MiB`."""
    if gib >= 1024:
        return f"{gib / 1024:.3g} TiB"
    return f"{gib:.3g} GiB" if gib >= 1 else f"{gib * 1024:.3g} MiB"
