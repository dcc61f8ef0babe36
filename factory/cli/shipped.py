"""Recipes that come with factory: by name wherever a recipe is asked for, and listed and copied."""

import json
import os
import re
from pathlib import Path
from typing import Any

import click

from factory.cli.options import LocalPath, NewPath, refuse_in_data_set
from factory.core.errors import InputError
from factory.recipe.file import find_recipe, find_shipped, list_shipped


def read_purpose(path: Path) -> str:
    """Returns the sentence that a recipe's leading comment begins with."""
    text = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# yaml-language-server"):
            continue
        if not line.startswith("#"):
            break
        text.append(line.lstrip("# ").strip())
    return re.split(r"(?<=[.:])\s", " ".join(text))[0].rstrip(":.") + "."


def copy_recipe(name: str, target: Path) -> None:
    """Writes a recipe that ships to a file of one's own.

    Raises:
        InputError: the file is there, lies in a data set, or no recipe has this name.
        StoreError: disk full, permission.
    """
    from factory.core.files.atomic import write_file

    source = find_shipped(name)
    if target.exists():
        raise InputError(f"{target}: is there already: choose another place or remove it")
    refuse_in_data_set(target)
    lines = source.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("# yaml-language-server")]
    text = "\n".join(kept).strip().replace(f"recipes/{source.name}", target.name)
    write_file(target, f"{text}\n".encode())


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
    told = {name: read_purpose(find_shipped(name)) for name in list_shipped()}
    if as_json:
        click.echo(json.dumps([{"name": each, "purpose": told[each]} for each in told], indent=1))
        return
    for name, purpose in told.items():
        click.echo(f"{name:22} {purpose}")


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
    target = dest or Path()
    target = target / f"{name}.yaml" if target.is_dir() or not target.suffix else target
    copy_recipe(name, target)
    click.echo(f"wrote {target}\nnext: factory validate {target}")
