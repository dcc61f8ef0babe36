"""The facade: what notebooks and the command line call."""

from collections.abc import Callable, Sequence

from factory.engine.executors import Notify, Watch
from factory.engine.plan import Plan
from factory.engine.refilter import refilter_folder as _refilter_folder
from factory.engine.run import RunResult
from factory.engine.run import run_recipe as _run_recipe
from factory.publish.card import write_card
from factory.recipe.file import LoadedRecipe


def run_recipe(
    loaded: LoadedRecipe,
    url: str,
    notify: Notify,
    say: Callable[[str], None],
    extend: bool = False,
    planned: Plan | None = None,
    watch: Watch | None = None,
) -> RunResult:
    """Makes, or goes on making, the data set of a recipe and its card; as `factory.engine.run`."""
    return _run_recipe(loaded, url, notify, say, extend, planned, watch, write_card)


def refilter_folder(url: str, overrides: Sequence[str]) -> RunResult:
    """Changes thresholds of a finished run and writes its card; as `factory.engine.refilter`."""
    return _refilter_folder(url, overrides, write_card)
