"""What filters promise of the accepted images, such as a bound on mislabelled ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from factory.catalog.acceptance import parse_rule
from factory.data.summary import Summary
from factory.engine.dataset import DATA, REJECTED, Dataset
from factory.filters import FILTERS
from factory.publish.card.text import join_blocks
from factory.recipe.recipe import Recipe

Promises = tuple[Sequence[str], ...]
"""Lines of each filter that promises something."""
_BROKEN = (
    "The filter `{}` bounds nothing here: the recipe's `accept: {}` takes images that it rejects."
)


def collect_promises(dataset: Dataset, recipe: Recipe, summary: Summary) -> Promises:
    """Returns what filters promise, by the classes of all candidates; reads nothing without any.

    A filter promises by a method `tell_promise(settings, recorded, counts)`, given what the run
    recorded of it, and class -> (candidates judged, accepted).

    Raises:
        StoreError: a file cannot be read.
    """
    kinds = ((each, FILTERS.get(each.kind)) for each in recipe.filters)
    telling: list[tuple[Any, Any]] = [
        (settings, getattr(kind, "tell_promise", None)) for settings, kind in kinds
    ]
    telling = [(settings, tell) for settings, tell in telling if tell is not None]
    if not telling or not summary.class_names:
        return ()
    accepted, others = (_count(dataset, folder) for folder in (DATA, REJECTED))
    counts = {name: (accepted[name] + others[name], accepted[name]) for name in summary.class_names}
    rule = None if recipe.accept is None else parse_rule(recipe.accept)
    return tuple(
        tell(settings, next(iter(summary.list_recorded(settings.kind)), {}), counts)
        if rule is None or rule.needs(settings.kind)
        else (_BROKEN.format(settings.kind, recipe.accept),)
        for settings, tell in telling
    )


def write_promises(promises: Promises) -> str:
    """Returns the section, or nothing."""
    if not promises:
        return ""
    return join_blocks(["## Labels", *(_join(lines) for lines in promises)])


def _count(dataset: Dataset, folder: str) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for name in dataset.list_tables(folder):
        found.update(row.values["class_name"] for row in dataset.iterate_rows(name, ["class_name"]))
    return found


def _join(lines: Sequence[str]) -> str:
    """Returns paragraphs, and items of a list below each other."""
    text = ""
    for line in lines:
        gap = (
            "\n" if line.startswith("- ") and text.rpartition("\n")[2].startswith("- ") else "\n\n"
        )
        text += gap + line if text else line
    return text
