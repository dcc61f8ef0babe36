"""The command that works, where a few-shot study is refused for what leaks."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from factory.core.errors import InputError
from factory.data.folders import RUN_RECORD
from factory.evaluate.fewshot.leaks import TEST_LEAK, Leak, LeakError

REPLACED = frozenset(
    {"synthetic", "unfiltered", "generator", "fit_filter", "force", "mark_leaks", "first_seed"}
)
"""Options that the command says anew."""
SHIPPED = Path("few-shot-variations")
"""Recipe, by its name, whose model saw no label."""
HONEST_ENCODER = "he-ssl-eval"
"""Of the shipped encoders the one that saw no label and filters nothing by default."""


@contextmanager
def naming_remedy() -> Iterator[None]:
    """Adds to a refusal of leaks the command that works.

    Raises:
        InputError: instead of a LeakError.
    """
    try:
        yield
    except LeakError as error:
        command = write_remedy(click.get_current_context(), error.leaks)
        raise InputError(f"{error}\nthis works: {command}" if command else str(error)) from error


def write_remedy(ctx: click.Context, leaks: Sequence[Leak]) -> str:
    """Returns the whole command: images made anew of each draw's shots; empty for test leaks.

    Args:
        ctx: of the refused command, whose other options are kept.
        leaks: why it was refused.
    """
    if any(leak.mark == TEST_LEAK for leak in leaks):
        return ""
    is_encoder = any(not leak.synthetic for leak in leaks)
    words = ["factory", "evaluate", "fewshot"]
    for option in ctx.command.params:
        name = str(option.name)
        if isinstance(option, click.Option) and name not in REPLACED:
            replaced = HONEST_ENCODER if name == "encoder" and is_encoder else ctx.params.get(name)
            words += _repeat(option, replaced)
    words += ["--generator", str(_choose_recipe(ctx.params, leaks)), "--fit-filter"]
    if ctx.params.get("out") is None and ctx.params.get("draws") is None:
        words += ["--out", "studies/anew"]
    return shlex.join(words)


def _repeat(option: click.Option, value: Any) -> Iterator[str]:
    """Yields an option as it was given; nothing where it has its default."""
    if value in (None, (), False) or value == option.default:
        return
    for each in value if option.multiple else (value,):
        yield option.opts[0] if option.opts[0].startswith("--") else option.opts[-1]
        if not option.is_flag:
            yield str(each)


def _choose_recipe(params: dict[str, Any], leaks: Sequence[Leak]) -> Path:
    """Returns the recipe of what was given, else the shipped one."""
    if any(leak.text.startswith("model ") for leak in leaks):
        return SHIPPED
    if params.get("generator") is not None:
        return Path(params["generator"])
    for root in params.get("synthetic") or ():
        recipe = Path(root) / "recipe.json"
        if recipe.is_file() and (Path(root) / RUN_RECORD).is_file() and _stands_alone(recipe):
            return recipe
    return SHIPPED


def _stands_alone(recipe: Path) -> bool:
    """Whether a run's recipe can be run from its folder once it gets shots and a filter of them."""
    read = json.loads(recipe.read_text(encoding="utf-8"))
    if not all("per_class" in block for block in read["conditions"]):
        return False
    others = [each for each in read["filters"] if each["kind"] != "classifier"]
    named = [each.get(name) for each in others for name in ("images", "held_out", "model")]
    named += [*read["catalogs"], *(each["source"] for each in read["generator"]["adapters"])]
    is_local = read["generator"]["model"].startswith((".", "/", "~"))
    return not is_local and not any(named) and any(each not in others for each in read["filters"])
