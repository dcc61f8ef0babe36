"""The command `factory tune`."""

from pathlib import Path
from typing import Any

import click

from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.recipes import JSON_OPTION, RECIPE_ARGUMENT
from factory.core.plain import write_json


@click.command(cls=SettingsCommand, settings=["factory.evaluate.tune.settings:TuneSettings"])
@RECIPE_ARGUMENT
@JSON_OPTION
def tune(recipe: Path, as_json: bool, **given: Any) -> None:
    """Chooses strength, way, filter, mix and count of RECIPE for your shots, inside them.

    Each configuration is measured by cross-validation: images are made of a fold's training shots
    alone, and shots that are held out are predicted with and without them, on Ray Tune. The best
    one is measured again on other folds; if its gain is above zero there, the recipe is written.
    No test set is read. The same command goes on where it was stopped.

    Exit code 1: the answer is to add nothing, or the budget ended before there was one; no recipe
    is written.
    """
    from factory import api
    from factory.evaluate.tune import WRITTEN
    from factory.evaluate.tune.settings import TuneSettings
    from factory.evaluate.tune.tables import write_lines

    settings = read_settings(TuneSettings, given)
    found = api.tune(recipe, settings, make_say(as_json))
    if as_json:
        click.echo(write_json(found))
    else:
        for line in write_lines(found):
            click.echo(line)
        for note in found["notes"]:
            click.echo(f"NOTE {note}", err=True)
        click.echo(f"all trials: {settings.folder / 'tune.json'}")
        if found["recipe"] is not None:
            click.echo(f"next: factory run {found['recipe']}")
    if found["answer"] != WRITTEN:
        click.get_current_context().exit(1)
