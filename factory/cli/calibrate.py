"""Command that proposes thresholds: calibrate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from factory.cli.options import IMAGE_COLUMN, IMAGES, NEW_FOLDER, Number, defaulted
from factory.cli.recipes import JSON_OPTION, RECIPE_ARGUMENT, SET_OPTION, write_set
from factory.core.duration import format_duration
from factory.core.plain import write_json
from factory.evaluate.figures import align


@click.command()
@RECIPE_ARGUMENT
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder to write into.")
@click.option(
    "--real",
    type=IMAGES,
    help="Real images, held out from all training; default: those of the reference conditions.",
)
@IMAGE_COLUMN
@defaulted(
    "-n count",
    200,
    click.IntRange(1, 100_000),
    "First tries to sample, and most real images of a class.",
)
@defaulted(
    "--keep",
    0.95,
    Number(0, 1, min_open=True),
    "Share of the real images of every class that each threshold keeps.",
)
@click.option("--reuse", is_flag=True, help="Take the scores that OUT holds; sample nothing.")
@SET_OPTION
@JSON_OPTION
def calibrate(
    recipe: Path,
    out: Path,
    real: Path | None,
    image_column: str | None,
    count: int,
    keep: float,
    reuse: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Proposes thresholds for RECIPE's filters from real images and first tries, with a picture.

    Exit code 1: under the proposed thresholds a class is expected to end under its count.
    """
    from factory import api
    from factory.cli.loading import load_checked, make_say

    report = api.calibrate(
        load_checked(recipe, overrides),
        out,
        real,
        count,
        keep,
        reuse=reuse,
        image_column=image_column,
        say=make_say(as_json=False),
    )
    if as_json:
        click.echo(write_json(report))
    else:
        _print_report(report, out)
    if report["short"]:
        click.get_current_context().exit(1)


def _print_report(report: Mapping[str, Any], out: Path) -> None:
    _print_sets(report)
    click.echo()
    for row in align(_tabulate_fields(report)):
        click.echo(row)
    hidden = sum(not part["shown"] and part["proposed"] is not None for part in report["fields"])
    if hidden:
        click.echo(f"({hidden} more that are off: in calibration.json)")
    click.echo("\nall thresholds together, by share of real images that each keeps:")
    for row in align(_tabulate_choices(report)):
        click.echo(row)
    click.echo("(real, mislabelled: of the class for which it is worst)")
    _print_cost(report)
    _print_early(report["early"])
    click.echo(f"\nlook at {out / 'calibration.png'}; all numbers: {out / 'calibration.json'}")
    if report["set"]:
        click.echo("\nto use the proposed thresholds:")
        click.echo("  " + " ".join(map(write_set, report["set"])))
        click.echo("\n" + report["yaml"].rstrip())


def _print_sets(report: Mapping[str, Any]) -> None:
    real = report["real"]
    if real is not None:
        whence = "" if real["given"] else ", the recipe's own references"
        click.echo(
            f"{real['images']:,} of {real['images_found']:,} real images ({real['path']}{whence}), "
            f"{real['fit']}"
        )
    tries = f"{report['synthetic']['images']:,} first tries"
    click.echo(f"{tries}, {report['seconds_per_candidate']:.3f} s each")
    for note in report["notes"]:
        click.echo(f"NOTE {note}", err=True)


def _tabulate_fields(report: Mapping[str, Any]) -> list[list[str]]:
    """One line per threshold and class: what it keeps of each set, now and as proposed."""
    heads = ["real", "mislabelled", "synthetic"]
    rows = [["threshold", "class", "now", *heads, "proposed", *heads]]
    for part in report["fields"]:
        name = f"{part['filter']}.{part['field']}"
        if not part["shown"]:
            continue
        for group in report["classes"]:
            sets = [part["sets"][each].get(group) for each in heads]
            cells = [
                _show_value(part["now"], group, "off"),
                *(_show(each, "now", False) for each in sets),
            ]
            cells.append(_show_value(part["proposed"], group, "none"))
            cells += [_show(each, "proposed") for each in sets]
            rows.append([name, group, *cells])
            name = ""
    return rows


def _tabulate_choices(report: Mapping[str, Any]) -> list[list[str]]:
    """One line per share kept, and one for the thresholds as they are."""
    heads = [
        "each keeps",
        "real",
        "mislabelled",
        "synthetic",
        "tries per image",
        "s per image",
        "short of asked",
    ]
    rows = [heads]
    for name, part in [
        ("(now)", report["now"]),
        *((f"{100 * each['keep']:g}%", each) for each in report["choices"]),
    ]:
        worst = [each["share"] for each in part["real"].values()]
        wrong = [each["share"] for each in part["mislabelled"].values()]
        cost = part["synthetic"]
        rows.append(
            [
                name,
                f"{min(worst):.0%}" if worst else "-",
                f"{max(wrong):.0%}" if wrong else "-",
                _show_share(cost["acceptance"]),
                _show_number(cost["candidates_per_accepted"], ".3g"),
                _show_number(cost["seconds_per_accepted"], ".3g"),
                f"{cost['short']:.1f}",
            ]
        )
    return rows


def _print_cost(report: Mapping[str, Any]) -> None:
    cost, attempts = report["proposed"]["synthetic"], report["attempts"]
    click.echo(f"\nas proposed, with {attempts} attempts a request:")
    for part in cost["series"]:
        if part["short"] is None:
            click.echo(f"  {part['series']}: no first try, nothing expected")
            continue
        click.echo(
            f"  {part['series']}: {_show_share(part['acceptance'])} accepted, "
            f"{part['expected_accepted']:,.0f} of {part['asked']:,} expected, "
            f"{part['short_at_worst']:,.0f} short at the low end"
        )
    seconds = cost["seconds_per_accepted"]
    if seconds is not None:
        asked = sum(part["asked"] for part in cost["series"])
        click.echo(f"  about {format_duration(seconds * asked)} on one worker like this one")
    for part in cost["series"]:
        if part["series"] in report["short"]:
            needed = part["attempts_needed"]
            more = f"raise budget.attempts to {needed}" if needed else "take another model"
            also = " (so is it now)" if part["series"] in report["short_now"] else ""
            click.echo(
                f"SHORT {part['series']}: {part['short']:,.0f} of {part['asked']:,} are expected "
                f"to miss{also}: {more}, lower --keep, or ask for less",
                err=True,
            )


def _print_early(early: Mapping[str, Any] | None) -> None:
    """Prints what stopping hopeless tries would bring, for each share of the steps at its best."""
    if early is None:
        return
    click.echo("\nstopping hopeless tries part-way (early), under the thresholds as they are now:")
    for group, count in early["few"].items():
        least = early["least"]
        click.echo(f"({count} tries of {group} pass, and {least} choose a bound: raise -n)")
    if not early["choices"]:
        if not early["few"]:
            click.echo("(the model takes too few steps to be stopped on its way)")
        return
    rows = [["at", "good kept", "stopped", "of the good", "accepted images per step"]]
    for at in sorted({each["at"] for each in early["choices"]}):
        mine = [each for each in early["choices"] if each["at"] == at]
        best = max(mine, key=lambda each: each["gain"])
        shares = [_show_share(best["stopped"]), _show_share(best["false_stops"])]
        rows.append([f"{at:g}", f"{best['keep']:.0%}", *shares, f"{best['gain']:.2f} times"])
    for row in align(rows):
        click.echo(row)
    if early["proposed"] is None:
        click.echo("(no bound is worth it)")
    else:
        click.echo(f"to use the best of them:\n  {write_set(early['proposed']['set'])}")


def _show(found: Mapping[str, Any] | None, key: str, interval: bool = True) -> str:
    if found is None or found[key] is None or not found[key]["images"]:
        return "-"
    return _show_share(found[key]) if interval else f"{found[key]['share']:.0%}"


def _show_share(share: Mapping[str, Any]) -> str:
    """E.g. `94% (85-98)`: the share and its 95 % Wilson interval."""
    if share["share"] is None:
        return "-"
    return f"{share['share']:.0%} ({100 * share['low']:.0f}-{100 * share['high']:.0f})"


def _show_value(value: float | Mapping[str, float] | None, group: str, missing: str) -> str:
    if isinstance(value, Mapping):
        value = value.get(group)
    return missing if value is None else str(value)


def _show_number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
