"""Loads and checks a recipe for a command."""

from pathlib import Path

from factory.recipe_check import check_recipe
from factory.recipe_file import LoadedRecipe, load_recipe, open_catalogs


def load_checked(path: Path, overrides: tuple[str, ...]) -> LoadedRecipe:
    """Loads a recipe and checks all that it names.

    Raises:
        RecipeError: with every problem found.
    """
    loaded = load_recipe(path, overrides)
    check_recipe(loaded, open_catalogs(loaded))
    return loaded
