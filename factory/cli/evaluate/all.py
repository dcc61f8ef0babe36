"""Command that runs every evaluation of a run and fills one table: evaluate all."""

import inspect
from collections.abc import Mapping
from typing import Any

import click

from factory.cli.evaluate.command import say, show
from factory.cli.fields import build_options, read_settings
from factory.core.errors import PluginError
from factory.evaluate import EVALUATIONS
from factory.evaluate.base import Evaluation
from factory.evaluate.everything import AllSettings, Everything, is_whole, list_rows
from factory.evaluate.figures import align


def _run(**given: Any) -> None:
    from factory import api

    settings = read_settings(AllSettings, given)
    click.echo("to be measured:")
    for name, part in Everything(settings).plan()[0].items():
        click.echo(f"  {name}: {_describe(name, part)}")
    table = api.evaluate_all(settings, _tell, say)
    click.echo("\n== all")
    rows = [["tier", "measure", "value", "beside it", "marks"], *map(list, list_rows(table))]
    for line in align(rows):
        click.echo(line)
    for part, reason in table["not_measured"].items():
        click.echo(f"not measured: {part}: {reason.splitlines()[0]}")
    click.echo(f"results: {settings.folder}")
    if settings.has_card:
        click.echo(f"wrote {settings.synthetic}/README.md")
    else:
        say("no run folder with these results in it: no card was written")
    if not is_whole(table["not_measured"], settings.skip):
        click.get_current_context().exit(1)


def _describe(name: str, part: Evaluation) -> str:
    try:
        with EVALUATIONS.guard(name):
            return part.describe_work()
    except PluginError as error:
        return str(error)


def _tell(part: str, found: Mapping[str, Any] | Exception | None) -> None:
    """Prints that a part begins, its tables, or why it has none."""
    if found is None:
        click.echo(f"\n== {part}")
    elif isinstance(found, Exception):
        click.echo(f"NOT MEASURED: {found}", err=True)
    else:
        show(part, found)


every = click.Command(
    "all", params=build_options(AllSettings), callback=_run, help=inspect.getdoc(Everything)
)
