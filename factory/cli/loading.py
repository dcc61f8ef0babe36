"""Loads and checks a recipe for a command."""

from collections.abc import Callable
from pathlib import Path

import click

from factory.api import load_recipe
from factory.recipe.file import LoadedRecipe
from factory.recipe.judge_overlap import find_circles


def load_checked(path: Path, overrides: tuple[str, ...]) -> LoadedRecipe:
    """Loads a recipe and checks all that it names.

    Raises:
        RecipeError: with every problem found.
    """
    loaded = load_recipe(path, overrides)
    warn(loaded)
    return loaded


def make_say(as_json: bool) -> Callable[[str], None]:
    """Returns what prints a line on what is being done, on stderr; with `--json` it prints none."""

    def say(line: str) -> None:
        if not as_json:
            click.echo(line, err=True)

    return say


def warn(loaded: LoadedRecipe) -> None:
    """Prints what is allowed but makes the data set's judgement weak."""
    for text in find_circles(loaded.recipe, loaded.session):
        click.echo(f"warning: {text}", err=True)
