"""Recipes that come with factory: by name wherever a recipe is asked for, and listed and copied."""

import json
import os
from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.options import LocalPath, NewPath
from factory.recipe.file import find_recipe, find_shipped


class RecipePath(LocalPath):
    """A recipe's file, or the name of one that ships; a file of that name comes first."""

    name = "recipe"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads a path or a name."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        return find_recipe(path)


RECIPE = RecipePath(path_type=Path)
NAME_ARGUMENT = click.argument("name")


@click.group()
def recipes() -> None:
    """Lists, shows and copies the recipes that come with factory; `run` takes them by name."""


@recipes.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_recipes(as_json: bool) -> None:
    """Lists the recipes that come with factory."""
    found = api.list_recipes()
    if as_json:
        told = [{"name": each.name, "purpose": each.purpose} for each in found]
        click.echo(json.dumps(told, indent=1))
        return
    for each in found:
        click.echo(f"{each.name:22} {each.purpose}")


@recipes.command()
@NAME_ARGUMENT
def show(name: str) -> None:
    """Prints the recipe NAME."""
    click.echo(find_shipped(name).read_text(encoding="utf-8"), nl=False)


@recipes.command()
@NAME_ARGUMENT
@click.argument("dest", required=False, type=NewPath(path_type=Path))
def copy(name: str, dest: Path | None) -> None:
    """Copies the recipe NAME to DEST, a file or folder, to be changed; default: here."""
    target = api.copy_recipe(name, dest or Path())
    click.echo(f"wrote {target}\nnext: factory validate {target}")
