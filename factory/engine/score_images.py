"""Judging what others made: the filters of a recipe over images that are there."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.images import decode_image
from factory.data.images import SourceImage
from factory.models.session import Session
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import LoadedRecipe, load_recipe

NAMED = 10
"""Unreadable images that the error names."""
CHUNK = 4096
"""Images that wait for a thread at a time."""


def load_judging(
    recipe: Path, data: Path, overrides: Sequence[str], columns: Mapping[str, str | None]
) -> LoadedRecipe:
    """Loads and checks a recipe whose generator and conditions are the images of `data`.

    Every image is read and decoded once, before any is judged: what is broken is named at once, and
    another set under the same names is not taken for this one. That costs one reading of the set,
    which is far less than scoring it.

    Args:
        recipe: whose filters, `accept`, `pick`, output and card are used.
        data: folder or file of images.
        overrides: `a.b=c` texts of `--set`.
        columns: further fields of the condition kind `existing`, those that are None left out.

    Raises:
        RecipeError: every problem of the recipe.
        SourceError: images that are not readable, by name.
    """
    block = {name: value for name, value in columns.items() if value is not None}
    block |= {"kind": "existing", "images": str(data.absolute())}
    loaded = _load(recipe, block, overrides)
    check_recipe(loaded)
    (found,) = (block.images for block in loaded.recipe.blocks)
    images = () if found is None else found.list(loaded.session)
    block["content_sha256"] = hash_images(images, data)
    return _load(recipe, block, overrides, loaded.session)


def _load(
    recipe: Path,
    block: Mapping[str, str],
    overrides: Sequence[str],
    session: Session | None = None,
) -> LoadedRecipe:
    replaced = [
        "generator={model: given, batch_size: 64}",
        f"conditions={json.dumps([block])}",
        "budget.attempts=1",
        "budget.on_shortfall=warn",
        "budget.stop=null",
    ]
    return load_recipe(recipe, [*overrides, *replaced], session)


def hash_images(images: Sequence[SourceImage], data: Path) -> str:
    """Decodes all images; returns the hash of their names, bytes and captions.

    Raises:
        SourceError: images that are not readable: the first ten by name, and how many there are.
    """
    content, problems = [], []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            for image, (sha256, problem) in zip(chunk, pool.map(_try_image, chunk), strict=True):
                content.append([image.key, sha256, image.caption])
                problems += [problem] if problem else []
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:NAMED])
        more = f"\n  and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
        raise SourceError(
            f"{data}: {len(problems):,} of {len(images):,} images cannot be read; nothing was "
            f"judged:\n{shown}{more}"
        )
    return compute_digest("given", content)


def _try_image(image: SourceImage) -> tuple[str, str | None]:
    """Returns the hash of an image's bytes, and what is wrong with it."""
    try:
        data = image.read_bytes()
        decode_image(data, image.place)
    except SourceError as error:
        return "", str(error)
    return hash_bytes(data), None
