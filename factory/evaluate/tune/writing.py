"""The recipe that a search chose, as a file that runs, and what its comments tell."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from factory.core.files.atomic import write_file
from factory.core.files.paths import resolve_path
from factory.core.yaml.model import apply_overrides
from factory.core.yaml.reader import read_document
from factory.data.shots import count_classes
from factory.evaluate.fewshot.generate import Prepared
from factory.evaluate.fewshot.providers import Draw
from factory.evaluate.tune.bed import HERE
from factory.evaluate.tune.study import Search, tell
from factory.recipe.earlier import split_document
from factory.recipe.file import find_base, load_recipe


def write_best(search: Search) -> Path:
    """Fits on all shots what the chosen recipe takes, and writes the recipe.

    Raises:
        EvaluationError: the adaptation copied the shots from the start.
    """
    settings, best = search.settings, search.best
    threshold = best.configuration.get("filter")
    provider = search.bed.build_provider(best.configuration, threshold)
    shots, seed = search.shots, search.base.recipe.seed
    draw = Draw(min(count_classes(shots, shots.class_names).values()), seed, shots)
    ready: Prepared = provider.prepare(draw)
    overrides = [each for each in ready.overrides if each != HERE]
    count = best.configuration.get("per_class")
    if count is not None:
        counts = dict.fromkeys(shots.class_names, count)
        overrides.append(f"conditions[0].per_class={json.dumps(counts)}")
    out = settings.out.absolute()
    written = apply_overrides(split_document(read_document(search.recipe)), overrides)
    data = _settle_paths(written.data, find_base(search.recipe), out.parent)
    data.setdefault("output", {})
    if isinstance(data["output"], dict) and data["output"].get("path") is not None:
        data["output"]["path"] = f"runs/{out.stem}"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=96)
    head = "".join(f"# {line}\n" for line in _write_head(search))
    write_file(out, f"{head}{text}".encode())
    load_recipe(out)
    return settings.out


def _settle_paths(value: Any, base: Path, home: Path) -> Any:
    """Returns plain data whose paths lead on from the new file's folder.

    What is there from the old file's folder is a path; below the new one's it becomes relative.
    """
    if isinstance(value, dict):
        return {name: _settle_paths(each, base, home) for name, each in value.items()}
    if isinstance(value, list):
        return [_settle_paths(each, base, home) for each in value]
    if not isinstance(value, str) or not (os.sep in value or value.startswith("~")):
        return value
    path = resolve_path(base, value)
    try:
        is_there = path.exists()
    except OSError:  # too long to be one
        return value
    if not is_there:
        return value
    path = path.absolute()
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _write_head(search: Search) -> Iterator[str]:
    """Yields the comment: how it was chosen, what it reached, what to do next."""
    best, check, settings = search.best, search.check, search.settings
    assert best.gain is not None and check is not None
    measured = sum(each.gain is not None for each in search.trials)
    yield (f"Chosen by factory tune inside {len(search.shots)} shots: {tell(best)}.")
    yield (
        f"{measured} configurations were measured on {settings.repeats} x {settings.folds} folds; "
        "this one gained"
    )
    yield f"{show(best.gain.gain)} balanced accuracy there, and {show(check.gain)}"
    yield f"on other folds, over {check.real.mean:.3f} of real shots alone. No test set was seen."
    mix = best.configuration.get("mix")
    if mix is not None:
        yield f"Train with real and synthetic images mixed so: {mix} (--mix {mix} of evaluate)."
    yield f"What it names lies in {settings.folder.name}/: keep it beside this file. Next:"
    yield f"  factory run {settings.out.name}"


def show(interval: Any) -> str:
    """E.g. `+0.031 (+0.004 to +0.058)`."""
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
