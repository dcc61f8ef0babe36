"""Commands that train from a recipe: generator, encoder and translator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.options import NEW_FOLDER
from factory.cli.recipes import JSON_OPTION, SET_OPTION
from factory.cli.shipped import RECIPE
from factory.core.plain import write_json


def _by_recipe(made: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a function the command that trains by a recipe; `made` says what lands in `--out`."""
    options = (
        click.argument("recipe", type=RECIPE),
        click.option("--out", required=True, type=NEW_FOLDER, help=made),
        SET_OPTION,
        JSON_OPTION,
    )

    def build(function: Callable[..., None]) -> click.Command:
        for option in reversed(options):
            function = option(function)
        return click.command()(function)

    return build


@_by_recipe("Pipeline folder.")
def generator(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains a generator from RECIPE; the same command again resumes it."""
    result = api.train_generator(recipe, out, overrides, _print_step)
    if result is not None:  # None in all processes but the first
        _print_end(result, as_json, format_training(result, out))


@_by_recipe("Encoder folder.")
def encoder(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains an image encoder from RECIPE without labels; the same command again resumes it."""
    result = api.train_encoder(recipe, out, overrides, _print_step)
    text = (
        f"wrote {out}: the weights of step {result['best_step']:,}, spread of the features "
        f"{result['feature_spread']:.2f}; next: factory train classifier --encoder {out}"
    )
    _print_end(result, as_json, text)


@_by_recipe("Folder of the translator, a catalog itself.")
def translator(recipe: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Trains a translator from RECIPE; the same command again resumes it."""
    result = api.train_translator(recipe, out, overrides, _print_step)
    _print_end(result, as_json, format_translator(result, out))


def _print_end(result: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(write_json(result, indent=None) if as_json else text)


def _print_step(step: int, steps: int, measured: dict[str, float]) -> None:
    click.echo(format_step(step, steps, measured), err=True)


def format_step(step: int, steps: int, measured: dict[str, float]) -> str:
    """Returns one line of progress."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
    return f"step {step:,}/{steps:,}, {values}"


def format_training(result: dict[str, Any], out: Path) -> str:
    """Returns what a training ended with."""
    if result.get("validation_loss") is not None:
        return (
            f"wrote {out}: the weights of step {result['best_step']:,}, loss on held-out images "
            f"{result['validation_loss']:.4g}"
        )
    if result.get("kid") is None:
        return f"wrote {out}: the weights of step {result['step']:,}, not validated"
    return (
        f"wrote {out}: the weights of step {result['best_step']:,}, kernel distance to held-out "
        f"images {result['kid']:.4g}"
    )


def format_translator(result: dict[str, Any], out: Path) -> str:
    """Returns what the training of a translator ended with."""
    head = f"wrote {out}: the weights of step {result['best_step']:,}"
    if result.get("kid") is not None:
        return (
            f"{head}, on {result['validated']:,} held-out images: kernel distance to the target "
            f"{result['kid']:.4g} (sources as they are {result['kid_source']:.4g}), correlation of "
            f"haematoxylin with the source {result['structure']:.3f}"
        )
    passed = ""
    if result.get("passed"):
        passed = f", {result['passed']:,} without a partner passed over"
    if "pixel_error" in result:
        from factory.train.translator.paired import describe_paired

        return f"{head}, {describe_paired(result)}{passed}"
    if "error" not in result:
        return f"{head}, not validated{passed}"
    return (
        f"{head}, on {result['held_out']:,} held-out embeddings{passed}: distance to the target "
        f"{result['error']:.3f} of the source's (by the mean alone {result['error_shift']:.3f}), "
        f"cosine {result['cosine']:.3f} (source {result['cosine_source']:.3f})"
    )
