"""The command `factory train adapter`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.models import CATALOG_OPTION
from factory.cli.options import NEW_FOLDER
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.train.adapter.train import AdapterResult


@click.command(cls=SettingsCommand, settings=["factory.train.adapter.settings:AdapterSettings"])
@click.option("--out", required=True, type=NEW_FOLDER, help="Adapter folder, a catalog itself.")
@CATALOG_OPTION
@JSON_OPTION
def adapter(out: Path, folders: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Adapts a model to a few real images of each class; the same command again resumes it.

    DATA is an ImageFolder (one folder for each class) or parquet. What is left out takes the
    default of the base's family, which the card tells. Training stops when samples copy the images.
    """
    from factory.train.adapter.settings import AdapterSettings

    settings = read_settings(AdapterSettings, given)
    result = api.train_adapter(settings, out, folders, make_say(as_json=False))
    click.echo(write_json(result.to_json()) if as_json else format_result(result, out))
    if result.exit_code:
        raise SystemExit(result.exit_code)


def format_result(result: "AdapterResult", out: Path) -> str:
    """Returns how an adaptation ended, copies first."""
    progress = result.progress
    if result.sha256 is None:
        check = progress.checks[-1]
        return (
            f"NO ADAPTER: at the first check (step {check.step:,}) {check.copies:.0%} of "
            f"{check.images} samples copy a shot already, so nothing is kept: give another --out "
            "and more shots, a lower --learning-rate or --rank, or a smaller --check-every"
        )
    lines = []
    if progress.is_stopped:
        lines.append(
            f"STOPPED BY COPIES at step {progress.step:,}; kept the weights of step "
            f"{progress.good_step:,}"
        )
    lines.append(
        f"wrote {out} in {result.seconds:.0f} s; in a recipe: catalogs: [{out.absolute()}], "
        f"generator: {{model: {result.id}}}"
    )
    return "\n".join(lines)
