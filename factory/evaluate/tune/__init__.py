"""`tune`: the recipe that adds most to a few shots, by cross-validation inside them, or nothing.

A configuration (strength, way, filter, mix, count) is measured on folds of the shots as the
few-shot study measures a draw: images are made of the fold's training shots alone, heads are tuned
there, and the held-out shots are predicted with and without the images. The one of the highest gain
is measured again on other folds; where the interval of that gain is not above zero, the answer is
that nothing should be added.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from factory.core.plain import write_json
from factory.data.artefact import Artefact
from factory.evaluate.base import Context
from factory.evaluate.tune.settings import TuneSettings

NAME = "tune.json"
ADD_NOTHING, UNDECIDED, WRITTEN = "add nothing", "undecided", "recipe"


class TuneResult(Artefact):
    """What a search found, as `tune.json` holds it.

    Attributes:
        kind: `tune`.
        answer: `recipe`; `add nothing`; or `undecided`, where the budget ended before the check.
        why: of the answer, in words.
        chosen: configuration of the highest gain; None where none was measured.
        searched: its gain on the folds by which it was chosen, which is too high by that choice.
        checked: the same on other folds, which decides; None where it was not checked.
        trials: every configuration with state, folds, gain and notes.
        recipe: file that was written; None where there is nothing to add.
        settings: all that a reader needs to search again.
    """

    kind: str = "tune"
    answer: str
    why: str
    chosen: dict[str, Any] | None = None
    searched: dict[str, Any] | None = None
    checked: dict[str, Any] | None = None
    trials: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    recipe: str | None = None
    notes: Annotated[list[str], Field(default_factory=list)]
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]


def tune_recipe(recipe: Path, settings: TuneSettings, context: Context) -> TuneResult:
    """Searches, and writes `tune.json`, `tune.md` and, where something helps, the recipe.

    The same call goes on: folds that were measured are not measured again.

    Raises:
        InputError: settings, images, recipe or space that do not fit; nothing was touched.
        RecipeError: every problem of recipe or space, with file, line and field.
        MismatchError: the folder holds a search of other settings.
        EvaluationError: no configuration was measured on all folds.
        RunBrokenError: Ray could not start.
    """
    from factory.core.files.atomic import write_file
    from factory.evaluate.tune.results import build_result
    from factory.evaluate.tune.study import Search
    from factory.evaluate.tune.tables import write_lines
    from factory.evaluate.tune.writing import write_best

    search = Search(settings, recipe, context)
    search.run()
    written = None if search.adds_nothing else write_best(search)
    result = TuneResult(version=TuneResult.newest, **build_result(search, written))
    lines = write_lines(result.to_json(), markdown=True)
    write_file(settings.folder / "tune.md", ("\n".join(lines) + "\n").encode())
    write_file(settings.folder / NAME, f"{write_json(result.to_json())}\n".encode())
    return result
