"""Commands that train from a recipe: generator and encoder."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.options import NEW_FOLDER
from factory.cli.recipes import JSON_OPTION, SET_OPTION
from factory.cli.shipped import RECIPE
from factory.core.plain import write_json


@click.command()
@click.argument("recipe", type=RECIPE)
@click.option("--out", required=True, type=NEW_FOLDER, help="Pipeline folder.")
@SET_OPTION
@JSON_OPTION
def generator(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains a generator from RECIPE; the same command again resumes it."""
    result = api.train_generator(recipe, out, overrides, _print_step)
    if result is not None:  # None in all processes but the first
        click.echo(write_json(result, indent=None) if as_json else format_training(result, out))


@click.command()
@click.argument("recipe", type=RECIPE)
@click.option("--out", required=True, type=NEW_FOLDER, help="Encoder folder.")
@SET_OPTION
@JSON_OPTION
def encoder(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains an image encoder from RECIPE without labels; the same command again resumes it."""
    result = api.train_encoder(recipe, out, overrides, _print_step)
    if as_json:
        click.echo(write_json(result, indent=None))
        return
    click.echo(
        f"wrote {out}: the weights of step {result['best_step']:,}, spread of the features "
        f"{result['feature_spread']:.2f}; next: factory train classifier --encoder {out}"
    )


def _print_step(step: int, steps: int, measured: dict[str, float]) -> None:
    click.echo(format_step(step, steps, measured), err=True)


def format_step(step: int, steps: int, measured: dict[str, float]) -> str:
    """Returns one line of progress."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
    return f"step {step:,}/{steps:,}, {values}"


def format_training(result: dict[str, Any], out: Path) -> str:
    """Returns what a training ended with."""
    if result["kid"] is None:
        return f"wrote {out}: the weights of step {result['step']:,}, not validated"
    return (
        f"wrote {out}: the weights of step {result['best_step']:,}, kernel distance to held-out "
        f"images {result['kid']:.4g}"
    )
