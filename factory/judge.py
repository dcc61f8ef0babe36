"""Judging what others made: the filters of a recipe over images that are there."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factory.errors import SourceError
from factory.recipe_file import LoadedRecipe, load_recipe
from factory.sources import SourceImage, list_images

NAMED = 10
"""Unreadable images that the error names."""


def load_judging(recipe: Path, data: Path, overrides: Sequence[str]) -> LoadedRecipe:
    """Loads a recipe with its generator and conditions replaced by the images of `data`.

    Args:
        recipe: whose filters, `accept`, `pick`, output and card are used.
        data: folder or file of images.
        overrides: `a.b=c` texts of `--set`, applied first.

    Raises:
        RecipeError: every problem of the recipe.
    """
    block = {"kind": "given", "images": str(data.absolute())}
    replaced = [
        "generator={model: given, batch_size: 64}",
        f"conditions={json.dumps([block])}",
        "budget={attempts: 1}",
    ]
    return load_recipe(recipe, [*overrides, *replaced])


def check_readable(data: Path) -> int:
    """Decodes every image once, before any is judged; returns how many there are.

    Costs one reading of the set, which is far less than scoring it.

    Raises:
        SourceError: images that are not readable, by name.
    """
    images = list_images(data)
    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(_find_problem, images) if problem]
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:NAMED])
        more = f"\n  and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
        raise SourceError(
            f"{data}: {len(problems):,} of {len(images):,} images cannot be read; nothing was "
            f"judged:\n{shown}{more}"
        )
    return len(images)


def _find_problem(image: SourceImage) -> str | None:
    try:
        image.read_pixels()
    except SourceError as error:
        return str(error)
    return None
