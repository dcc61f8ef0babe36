"""The command `factory report`."""

from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.options import FILE_PLACE
from factory.cli.recipes import JSON_OPTION
from factory.cli.runs import DIR_ARGUMENT
from factory.core.plain import write_json


@click.command(cls=SettingsCommand, settings=["factory.publish.report:ReportOptions"])
@DIR_ARGUMENT
@click.option(
    "--out", type=FILE_PLACE, help="HTML file or fsspec URL; default: report.html in DIR."
)
@click.option("--no-real", is_flag=True, help="Leave real images out, e.g. to share the file.")
@JSON_OPTION
def report(folder: str, out: str | None, no_real: bool, as_json: bool, **given: Any) -> None:
    """Writes one HTML file on the run in DIR: funnel, galleries, scores, copies, acceptance.

    DIR is what run or judge write, also while they still do. The file needs no network.
    """
    from factory.publish.report import ReportOptions

    options = read_settings(ReportOptions, given, with_real=not no_real)
    numbers = api.report(folder, out, options, make_say(as_json))
    if as_json:
        click.echo(write_json(numbers))
        return
    _print(numbers)
    click.echo(f"wrote {numbers['out']} ({numbers['bytes'] / 1e6:.1f} MB)")


def _print(numbers: dict[str, Any]) -> None:
    shards = numbers["shards"]
    click.echo(
        f"{numbers['name']}: {numbers['status']}, {shards['committed']:,} of "
        f"{shards['planned']:,} shards"
    )
    for part in numbers["series"]:
        click.echo(f"  {part['label']}: {part['accepted']:,} of {part['asked']:,}")
    for comparison in numbers["real"]:
        for note in comparison["notes"]:
            click.echo(f"  {comparison['title']}: {note}")
