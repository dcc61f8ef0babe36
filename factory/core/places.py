"""Places on a disk: what is shown or published keeps the last part of absolute paths."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

PREFIX = r"(?:(?:open_clip|timm|transformers|torchvision|local-dir|file):)*(?://)?"
START = r"(?:/(?=[^\s/])|~[\w.-]*/|[A-Za-z]:[\\/])"
PLACE = re.compile(rf"^(?P<prefix>{PREFIX})(?P<place>{START}.*)$", re.DOTALL)
"""A text that is an absolute path, perhaps behind the name of a library that loads it."""
WORDS = frozenset(
    {
        "approval",
        "approved",
        "caption",
        "citation",
        "class_name",
        "class_names",
        "description",
        "negative_prompt",
        "note",
        "prompt",
        "prompt_template",
    }
)
"""Keys whose values are words for people or models, whatever they look like."""


def shorten_places(value: Any) -> Any:
    """Returns plain data with every absolute path cut to `.../` and its last part."""
    if isinstance(value, dict):
        return {key: each if key in WORDS else shorten_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shorten_places(each) for each in value]
    return shorten_place(value) if isinstance(value, str) else value


def list_places(value: Any) -> Iterator[str]:
    """Yields every absolute path in plain data."""
    if isinstance(value, dict):
        value = [each for key, each in value.items() if key not in WORDS]
    if isinstance(value, list):
        for each in value:
            yield from list_places(each)
    elif isinstance(value, str) and (found := PLACE.match(value)):
        yield found["place"]


def replace_places(text: str, places: set[str]) -> str:
    """Returns a text in which each of these paths is cut to its last part, the longest first."""
    for place in sorted(places, key=len, reverse=True):
        # Not amid a longer path or a link that happens to hold it.
        pattern = rf"(?<![\w./:~-]){re.escape(place)}(?!\w)"
        text = re.sub(pattern, shorten_place(place).replace("\\", r"\\"), text)
    return text


def shorten_place(text: str) -> str:
    """Returns a text that is an absolute path as `.../` and its last part, any other as it is."""
    found = PLACE.match(text)
    if not found:
        return text
    last = re.split(r"[\\/]", found["place"].rstrip("/\\"))[-1]
    return f"{found['prefix']}.../{last}"


def name_place(path: str | PurePath) -> str:
    """Returns the last two parts of a path, which tell sets apart in tables."""
    return "/".join(PurePath(path).parts[-2:]).lstrip("/")


def take_name(name: str) -> str:
    """Returns the last part of a path, and an id as it is: where a folder lies does not matter."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~", ".")) else name
