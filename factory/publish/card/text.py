"""Pieces of Markdown: tables and lines of settings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from factory.core.markdown import escape
from factory.core.places import shorten_places


def join_row(cells: Iterable[Any]) -> str:
    """Returns one row of a table; a bar or a new line inside a cell stays in its cell."""
    kept = (" ".join(str(cell).split("\n")).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(kept) + " |"


def join_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join([join_row(head), join_row(["---"] * len(head)), *map(join_row, rows)])


def join_blocks(blocks: Iterable[str]) -> str:
    """Joins paragraphs with an empty line between; empty ones are left out."""
    return "\n\n".join(block for block in blocks if block)


def list_settings(settings: Mapping[str, Any]) -> str:
    """Returns settings that are single values or short lists as `name value, ...`."""
    found = []
    for name, value in settings.items():
        cut = shorten_places(value)
        if isinstance(cut, list | tuple) and all(isinstance(x, str | int | float) for x in cut):
            cut = " ".join(map(str, cut))
        if isinstance(cut, str | int | float) and cut != "":
            found.append(escape(f"{name.replace('_', ' ')}: {cut}"))
    return "; ".join(found)
