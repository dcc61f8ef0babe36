"""Refiltering: other thresholds over stored scores, without generating or loading a model."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.catalog.acceptance import parse_rule
from factory.core.errors import InputError
from factory.core.hashing import diff_values
from factory.core.yaml.model import apply_overrides, parse_model
from factory.core.yaml.reader import parse_document
from factory.engine.continuing import only_decides
from factory.engine.forgotten import read_forgotten
from factory.engine.later import gather, write_later
from factory.engine.run import RunResult, WriteCard, leave_card, refilter_run
from factory.engine.run_folder import RunFolder
from factory.filters import build_decide, build_filters
from factory.filters.base import Filter
from factory.recipe.earlier import rename_override
from factory.recipe.file import reopen_session
from factory.recipe.recipe import Recipe, restore_recipe


def refilter_folder(
    url: str, overrides: Sequence[str], write_card: WriteCard = leave_card
) -> RunResult:
    """Changes thresholds of a finished run; of filters that people tell, also what they told.

    Args:
        url: run folder.
        overrides: `filters.KIND.FIELD=VALUE`, or with the filter's position; `accept=RULE`;
            `dedup.max_similarity=VALUE` of a run with `dedup`; `pick.by=SCORE` or
            `pick.method=METHOD` of a run that picks.
        write_card: writes the card of the data set beside its summary.

    Raises:
        MismatchError: not a run folder.
        InputError: a field that is no threshold, or a filter that has no scores.
    """
    folder = RunFolder(url)
    record = folder.require_run()
    read_forgotten(folder).refuse_half(url)
    written = [rename_override(text, record.recipe) for text in overrides]
    asked = (found[1] for text in written if (found := _KIND.match(text)))
    old, came = gather(url, restore_recipe(record.recipe), asked)
    kinds = [settings.name for settings in old.filters]
    named = [_replace_kind(text, kinds) for text in written]
    document = parse_document(json.dumps(old.model_dump(mode="json")), f"{url}/.factory/run.json")
    recipe = parse_model(apply_overrides(document, named), Recipe)
    changed = diff_values(old.model_dump(mode="json"), recipe.model_dump(mode="json"))
    others = [name for name, _, _ in changed if not only_decides(name)]
    if others:
        raise InputError(
            f"{', '.join(others)}: refilter changes thresholds of filters, dedup.max_similarity, "
            "accept, pick.by and pick.method only: use --set filters.KIND.FIELD="
        )
    deciders = build_filters(recipe.filters, reopen_session(recipe, Path()))
    for name, _, value in changed:
        _check_threshold(name, value, deciders)
    _check_counts(recipe, len(record.recipe["filters"]))
    with folder.hold("refilter"):
        write_later(folder, came)
        return refilter_run(folder, recipe, build_decide(deciders, recipe.accept), write_card)


_KIND = re.compile(r"filters\.([A-Za-z_]\w*)\.")


def _check_counts(recipe: Recipe, before: int) -> None:
    """Refuses a filter that was added and that the rule of the recipe passes over.

    Raises:
        InputError: names the rule that would count it.
    """
    for settings in recipe.filters[before:]:
        rule = recipe.accept
        if rule is not None and settings.name not in parse_rule(rule).kinds:
            raise InputError(
                f"accept: {rule!r} does not name {settings.name}, which would only score: add "
                f"--set accept='({rule}) and {settings.name}'"
            )


def _check_threshold(name: str, value: Any, deciders: Sequence[Filter]) -> None:
    """Refuses what a filter cannot decide by: of one's own the file, which would, does not run.

    Raises:
        InputError: no threshold of the filter, or no number.
    """
    part = re.fullmatch(r"filters\.(\d+)\.(\w+).*", name)
    if part is None:
        return
    judge = deciders[int(part[1])]
    limits = value.values() if isinstance(value, Mapping) else (value,)
    are_numbers = all(type(limit) in (int, float, type(None)) for limit in limits)
    if part[2] not in judge.deciding_fields or not are_numbers:
        known = ", ".join(judge.deciding_fields) or "none"
        raise InputError(f"{name}: write a number for a threshold ({known}), got {value!r}")


def _replace_kind(text: str, kinds: Sequence[str]) -> str:
    """Turns `filters.tissue.min_fraction=..` into `filters.1.min_fraction=..`."""
    match = _KIND.match(text)
    if match is None:
        return text
    if match.group(1) not in kinds:
        known = ", ".join(kinds) or "none"
        raise InputError(f"--set {text}: the run has no filter {match.group(1)!r}: it has {known}")
    return text.replace(match.group(1), str(kinds.index(match.group(1))), 1)
