"""What earlier versions wrote, in the words of this one: near-duplicates were a filter once."""

import re
from collections.abc import Mapping
from typing import Any

from factory.core.errors import RecipeError
from factory.core.notes import tell
from factory.core.yaml.reader import Document, FieldPath

NEAR_DUPLICATE = "near_duplicate"
"""Kind of filter that `dedup` of a recipe was; still what verdicts over the set are called."""


def split_duplicates(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe, its content or a worker's description with `dedup` instead of the filter.

    One that has both, or the filter more than once, stays as it is.
    """
    place = find_place(data)
    if place is None:
        return dict(data)
    filters = list(data["filters"])
    dedup = {name: value for name, value in filters.pop(place).items() if name != "kind"}
    return {**data, "filters": filters, "dedup": dedup}


def join_duplicates(data: Mapping[str, Any], place: int | None = None) -> dict[str, Any]:
    """Returns content as fingerprints have it, which stay as they were: with the filter.

    Args:
        data: what `split_duplicates` may give.
        place: where the filter stood; None: last.
    """
    content = {name: value for name, value in data.items() if name != "dedup"}
    if data.get("dedup") is not None:
        before, after = data["filters"][:place], () if place is None else data["filters"][place:]
        content["filters"] = [*before, {"kind": NEAR_DUPLICATE, **data["dedup"]}, *after]
    return content


def find_place(data: Mapping[str, Any]) -> int | None:
    """Returns where the filter stands that `split_duplicates` takes out, or None."""
    places = _find_places(data)
    return places[0] if len(places) == 1 and data.get("dedup") is None else None


def split_document(document: Document) -> Document:
    """Returns a recipe's document with `dedup` instead of the filter, and tells so.

    Raises:
        RecipeError: it has both, or the filter more than once.
    """
    places = _find_places(document.data)
    if not places:
        return document
    if len(places) > 1 or document.data.get("dedup") is not None:
        message = f"{NEAR_DUPLICATE} is `dedup:` of the recipe now: state it once, there"
        raise RecipeError((document.make_problem(("filters", places[-1]), message),))
    tell(f"{document.file}: filter {NEAR_DUPLICATE} is read as `dedup:`, its place of today")
    position = places[0]

    def move(path: FieldPath) -> FieldPath:
        if path[0] != "filters" or len(path) == 1 or int(path[1]) < position:
            return path
        if path[1] == position:
            return ("dedup", *path[2:])
        return ("filters", int(path[1]) - 1, *path[2:])

    return Document(
        split_duplicates(document.data),
        {move(path): place for path, place in document.positions.items() if path},
        document.file,
        {move(path): text for path, text in document.overridden.items() if path},
    )


def rename_override(text: str, data: Mapping[str, Any]) -> str:
    """Returns an override of what was written as one of what `split_duplicates` makes of it.

    `filters.near_duplicate.FIELD=..` is of `dedup`, and a filter behind that one moves up a place.

    Args:
        text: as `--set` takes it.
        data: as it was written: places count there.
    """
    start = f"filters.{NEAR_DUPLICATE}."
    if text.startswith(start):
        return f"dedup.{text.removeprefix(start)}"
    place, match = find_place(data), re.match(r"filters(?:\.(\d+)|\[(\d+)\])(?!\d)", text)
    if place is None or match is None or (number := int(match[1] or match[2])) < place:
        return text
    return ("dedup" if number == place else f"filters.{number - 1}") + text[match.end() :]


def _find_places(data: Mapping[str, Any]) -> list[int]:
    """Returns where the filter stands among the filters."""
    filters = data.get("filters")
    return [
        place
        for place, each in enumerate(filters if isinstance(filters, list | tuple) else ())
        if isinstance(each, Mapping) and each.get("kind") == NEAR_DUPLICATE
    ]
