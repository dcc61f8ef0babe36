"""Commands that take a data set at its word: regenerate and verify."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.options import NEW_FILE, Number, defaulted
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

PLACES = "factory.engine.restore:Places"
SET_ARGUMENT = click.argument("source", metavar="DIR")


@click.command(cls=SettingsCommand, settings=[PLACES])
@SET_ARGUMENT
@click.argument("sample_id")
@click.option(
    "--out",
    required=True,
    type=NEW_FILE,
    help="Image file to write, .webp or .png; channels beside RGB go to .channels.npy.",
)
@defaulted(
    "--min-psnr",
    40.0,
    Number(0, 1000),
    "dB from which an image that is not exact is within tolerance.",
)
@JSON_OPTION
def regenerate(
    source: str, sample_id: str, out: Path, min_psnr: float, as_json: bool, **given: Any
) -> None:
    """Makes one image of DIR again from what its row recorded, and says how equal it is.

    DIR is a run folder, a copy of a published data set, or OWNER/NAME[@REVISION] on the Hub; the
    row may be an accepted or a rejected one. Exit code 1 where the image is different.
    """
    from factory.engine.regenerate import Places

    places = read_settings(Places, given)
    rebuilt = api.regenerate(source, sample_id, out, places, min_psnr, make_say(as_json))
    click.echo(write_json(rebuilt.to_json()) if as_json else str(rebuilt))
    click.get_current_context().exit(1 if rebuilt.status == "different" else 0)


@click.command(cls=SettingsCommand, settings=["factory.publish.verify:VerifyOptions", PLACES])
@SET_ARGUMENT
@JSON_OPTION
def verify(source: str, as_json: bool, **given: Any) -> None:
    """Checks that the data set in DIR is what was made: files, counts, rows, images, verdicts.

    DIR is a run folder, a copy of a published data set, or OWNER/NAME[@REVISION] on the Hub. Exit
    code 1 where a check fails; each failure names file, row and field. What cannot be checked from
    what is there, such as variations without their real images (--references), is counted and
    said, and is no failure.
    """
    from factory.engine.regenerate import Places
    from factory.publish.verify import VerifyOptions

    places = {name: given.pop(name) for name in Places.model_fields}
    options = read_settings(VerifyOptions, {**given, "places": read_settings(Places, places)})
    report = api.verify(source, options, make_say(as_json))
    if as_json:
        click.echo(write_json(report.to_json()))
    else:
        _print_report(report)
    click.get_current_context().exit(0 if report.is_sound else 1)


def _print_report(report: Any) -> None:
    for check in dict.fromkeys((*report.checked, *report.unchecked, *report.failed)):
        count, left, bad = (of[check] for of in (report.checked, report.unchecked, report.failed))
        parts = [f"{left:,} NOT CHECKED"] if left else []
        if count or bad:
            found = f"{bad:,} FAILED" if bad else "all sound"
            parts.insert(0, f"{count:,} checked, {found}")
        click.echo(f"{check}: {', '.join(parts)}")
    for rebuilt in report.rebuilt:
        if rebuilt.status != "not checked":
            click.echo(f"  {rebuilt}")
    for failure in report.failures:
        click.echo(f"FAILED {failure.check}: {failure}", err=True)
    hidden = sum(report.failed.values()) - len(report.failures)
    if hidden:
        click.echo(f"and {hidden:,} more failures of the same kinds", err=True)
    for note in report.notes:
        click.echo(f"not checked: {note}")
    left = sum(report.unchecked.values())
    open_end = f"; {left:,} asked for and not checked: neither sound nor not" if left else ""
    click.echo(f"sound{open_end}" if report.is_sound else f"NOT SOUND{open_end}")
