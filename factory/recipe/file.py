"""Recipe files: loads a recipe with its folder and positions, and writes the JSON schema."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.catalog import find_shipped_folder, is_catalog, load_catalogs
from factory.core.errors import CatalogError, InputError, Problem, RecipeError
from factory.core.files.paths import resolve_path
from factory.core.yaml.messages import advise
from factory.core.yaml.model import Document, apply_overrides, parse_model, read_document
from factory.models.session import Session
from factory.recipe.earlier import rename_override, split_document
from factory.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        recipe: the validated recipe; its paths stay as written.
        base: the folder that relative paths start from, see `find_base`.
        path: the file.
        document: data and positions, overrides applied.
        session: what all work on the recipe shares.
    """

    recipe: Recipe
    base: Path
    path: Path
    document: Document
    session: Session


def load_recipe(
    path: Path, overrides: Sequence[str] = (), session: Session | None = None
) -> LoadedRecipe:
    """Loads and validates a recipe file; what it refers to is `check_recipe`'s to check.

    Args:
        path: YAML file.
        overrides: `a.b=c` texts of `--set`, applied in order.
        session: of the same recipe, loaded before with other overrides.

    Raises:
        RecipeError: every problem found, with file, line and field.
    """
    written = read_document(path)
    named = [rename_override(text, written.data) for text in overrides]
    document = apply_overrides(split_document(written), named)
    base = find_base(path)
    recipe = _settle_filters(parse_model(document, Recipe), base, document)
    session = session or _open_session(recipe, base, document)
    return LoadedRecipe(recipe, base, path, document, session)


def _settle_filters(recipe: Recipe, base: Path, document: Document) -> Recipe:
    """Returns the recipe with what the user's own files add to the settings of filters.

    Raises:
        RecipeError: a file that cannot be used, or refuses its settings.
    """
    settled, problems = [], []
    for number, each in enumerate(recipe.filters):
        try:
            settled.append(each.settle(base))
        except RecipeError as error:
            for problem in error.problems:
                place = ("filters", number, problem.field)
                problems.append(document.make_problem(place, problem.message))
        except InputError as error:
            problems.append(document.make_problem(("filters", number), str(error)))
    if problems:
        raise RecipeError(tuple(problems))
    return recipe.model_copy(update={"filters": tuple(settled)})


def list_shipped() -> list[str]:
    """Returns the names of the recipes that ship."""
    return sorted(path.stem for path in find_shipped_folder("recipes").glob("*.yaml"))


def find_shipped(name: str) -> Path:
    """Returns the file of a recipe that ships.

    Raises:
        InputError: none has this name.
    """
    known = list_shipped()
    if name not in known:
        raise InputError(f"{name}: no recipe of this name ships: {advise(name, known, 20)}")
    return find_shipped_folder("recipes") / f"{name}.yaml"


def find_recipe(place: Path) -> Path:
    """Returns a recipe's file; a name without suffix and folder that is no file is a shipped one's.

    Raises:
        InputError: no such name.
    """
    is_path = place.is_file() or place.suffix or len(place.parts) != 1
    return place if is_path else find_shipped(str(place))


def find_base(path: Path) -> Path:
    """Returns the folder where a recipe's relative paths start: its own.

    For one that ships, which is asked for by name, it is the folder where one stands.
    """
    return Path() if path.parent == find_shipped_folder("recipes") else path.parent


def _open_session(recipe: Recipe, base: Path, document: Document) -> Session:
    """Opens the catalogs of a recipe, its own before the shipped ones.

    Raises:
        RecipeError: a catalog folder that is missing or holds nothing.
    """
    problems: list[Problem] = []
    found = [resolve_path(base, entry) for entry in recipe.catalogs]
    for number, folder in enumerate(found):
        try:
            load_catalogs((folder,))
        except CatalogError as error:
            problems.append(document.make_problem(("catalogs", number), str(error)))
    if problems:
        raise RecipeError(tuple(problems))
    return Session.open(base, found)


def reopen_session(recipe: Recipe, base: Path, folders: Sequence[Path] = ()) -> Session:
    """Opens what work on a finished run shares: catalogs of its recipe count if they are there.

    Args:
        recipe: as the run recorded it.
        base: folder that its relative paths start from.
        folders: catalogs that are searched before.

    Raises:
        CatalogError: one of `folders` is missing or holds nothing.
    """
    own = (resolve_path(base, each) for each in recipe.catalogs)
    return Session.open(base, [*folders, *filter(is_catalog, own)])


def build_recipe_schema() -> dict[str, Any]:
    """Returns the JSON schema of a recipe, for editors that read YAML language servers.

    Settings of a kind are named as its class, unless two packages have one of that name.
    """
    schema = Recipe.model_json_schema()
    nested = {name: name.split("__")[-2] for name in schema["$defs"] if "__" in name}
    names = Counter([*schema["$defs"].keys() - nested.keys(), *nested.values()])
    nested = {name: kind for name, kind in nested.items() if names[kind] == 1}
    for name, kind in nested.items():  # Settings, in the class of a kind
        schema["$defs"][name]["title"] = kind
    text = re.sub("|".join(nested), lambda found: nested[found[0]], json.dumps(schema))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json.loads(text)}
