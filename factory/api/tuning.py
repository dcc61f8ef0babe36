"""Searching the recipe that adds most to a few shots."""

from pathlib import Path
from typing import TYPE_CHECKING

from factory.api.evaluating import make_context
from factory.api.shown import Tuned
from factory.api.words import AnyPath, Say, keep_quiet
from factory.recipe.file import find_recipe

if TYPE_CHECKING:
    from factory.evaluate.tune.settings import TuneSettings


def tune(recipe: AnyPath, settings: "TuneSettings", say: Say = keep_quiet) -> Tuned:
    """Chooses strength, way, filter, mix and count for a few shots, inside them; or nothing.

    Args:
        recipe: its file, or the name of one that ships; its conditions vary real images or are of
            classes.
        settings: the shots, where the recipe is written, what is tried, and for how long.
        say: see above.

    Returns:
        What `tune.json` holds: `answer` is `recipe` (`recipe` names its file), `add nothing` or
        `undecided` (the budget ended before the check), with every trial. The same call goes on
        where it was stopped.

    Raises:
        InputError: settings, images, recipe or space that do not fit; nothing was touched.
        RecipeError: every problem of recipe or space, with file, line and field.
        MismatchError: the folder beside `settings.out` holds a search of other settings.
        EvaluationError: no configuration was measured on all folds within the budget.
        RunBrokenError: Ray could not start.
    """
    from factory.evaluate.tune import tune_recipe

    found = tune_recipe(find_recipe(Path(recipe)), settings, make_context(say))
    return Tuned(found.to_json())
