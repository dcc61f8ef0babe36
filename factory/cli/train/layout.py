"""The command `factory train layout`."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.options import IMAGES, NEW_FILE
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json


@click.command(cls=SettingsCommand, settings=["factory.train.layout.settings:LayoutSettings"])
@click.option("--data", required=True, type=IMAGES, help="Masks, all of one size.")
@click.option("--out", required=True, type=NEW_FILE, help="File of the layout, NAME.json.")
@JSON_OPTION
def layout(data: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Fits how the objects of real masks lie, so that conditions of kind `layout` draw such masks.

    DATA is a folder of label maps (PNG or TIFF; one folder for each class), parquet or WebDataset
    tars. What is drawn is held against the real masks: for counts, areas, distances to the nearest
    and coverage, the Wasserstein distance stands beside that of the real masks among themselves.
    """
    from factory.train.layout.settings import LayoutSettings

    settings = read_settings(LayoutSettings, given)
    measured = api.train_layout(data, out, settings, make_say(as_json))
    if as_json:
        click.echo(write_json(measured))
        return
    for name, measures in measured.items():
        for measure, found in measures.items():
            far, floor = found["distance"], found["floor"]
            click.echo(f"{name}: {measure}: {far:g} from the real masks (theirs: {floor:g})")
    click.echo(f"wrote {out}; in a recipe: {{kind: layout, layout: {out.absolute()}}}")
