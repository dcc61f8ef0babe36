"""What makes a study run that is refused for what leaks: images made of each draw's shots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.data.folders import FolderKind
from factory.engine.dataset import Dataset
from factory.engine.summary import RECIPE
from factory.evaluate.fewshot.leaks import TEST_LEAK, Leak
from factory.filters import FILTERS
from factory.recipe.recipe import Recipe

SHIPPED = Path("few-shot-variations")
"""Recipe, by its name, whose model saw no label."""
HONEST_ENCODER = "he-ssl-eval"
"""Of the shipped encoders the one that saw no label and filters nothing by default."""


def find_remedy(given: Mapping[str, Any], leaks: Sequence[Leak]) -> dict[str, Any] | None:
    """Returns other values of the options; None for test leaks.

    Args:
        given: options of the refused study.
        leaks: why it was refused.
    """
    if any(leak.mark == TEST_LEAK for leak in leaks):
        return None
    changed: dict[str, Any] = {
        "synthetic": (),
        "unfiltered": (),
        "recipe": _choose_recipe(given, leaks),
        "fit_filter": True,
        "force": False,
        "mark_leaks": False,
        "first_seed": 0,
    }
    if any(not leak.synthetic for leak in leaks):
        changed["encoder"] = HONEST_ENCODER
    if given["out"] is None and given["draws"] is None:
        changed["out"] = Path("studies/anew")
    return changed


def _choose_recipe(given: Mapping[str, Any], leaks: Sequence[Leak]) -> Path:
    """Returns the recipe of what was given, else the shipped one."""
    if any(leak.text.startswith("model ") for leak in leaks):
        return SHIPPED
    if given["recipe"] is not None:
        return Path(given["recipe"])
    for root in given["synthetic"]:
        run = Dataset(str(root))
        if run.kind is FolderKind.RUN and run.recipe is not None and _stands_alone(run.recipe):
            return Path(root) / RECIPE
    return SHIPPED


def _stands_alone(recipe: Recipe) -> bool:
    """Whether a run's recipe can be run from its folder once it gets shots and a filter of them."""
    read = recipe.model_dump(mode="json")
    if not all("per_class" in block for block in read["conditions"]):
        return False
    others = [each for each in recipe.filters if FILTERS.get(each.kind).fitted is None]
    named = [
        getattr(each, name, None) for each in others for name in ("images", "held_out", "model")
    ]
    named += [*read["catalogs"], *(each["source"] for each in read["generator"]["adapters"])]
    is_local = read["generator"]["model"].startswith((".", "/", "~"))
    return not is_local and not any(named) and len(others) < len(recipe.filters)
