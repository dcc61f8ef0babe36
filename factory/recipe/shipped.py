"""Recipes that come with factory: what each is for, and copies to change."""

import re
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import InputError
from factory.core.files.atomic import write_file
from factory.data.folders import refuse_in_data_set
from factory.recipe.file import find_shipped, list_shipped

_EDITOR = "# yaml-language-server"


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe that comes with factory: its name, its file, and what it is for."""

    name: str
    path: Path
    purpose: str


def describe_shipped() -> tuple[ShippedRecipe, ...]:
    """Returns all recipes that ship, by name."""
    found = ((name, find_shipped(name)) for name in list_shipped())
    return tuple(ShippedRecipe(name, path, read_purpose(path)) for name, path in found)


def read_purpose(path: Path) -> str:
    """Returns the sentence that a recipe's leading comment begins with."""
    text = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(_EDITOR):
            continue
        if not line.startswith("#"):
            break
        text.append(line.lstrip("# ").strip())
    return re.split(r"(?<=[.:])\s", " ".join(text))[0].rstrip(":.") + "."


def copy_recipe(name: str, place: Path) -> Path:
    """Writes a recipe that ships to a file of one's own, or into a folder under its name.

    Raises:
        InputError: the file is there, lies in a data set, or no recipe has this name.
        StoreError: disk full, permission.
    """
    source = find_shipped(name)
    target = place / source.name if place.is_dir() or not place.suffix else place
    if target.exists():
        raise InputError(f"{target}: is there already: choose another place or remove it")
    refuse_in_data_set(target)
    lines = source.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(_EDITOR)]
    text = "\n".join(kept).strip().replace(f"recipes/{source.name}", target.name)
    write_file(target, f"{text}\n".encode())
    return target
