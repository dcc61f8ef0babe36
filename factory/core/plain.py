"""Plain data: what libraries hand over, as JSON can hold it, and JSON that any reader can read."""

import dataclasses
import enum
import json
import math
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

_NAMED = ("torch", "numpy", "numpy.dtypes", "datetime", "uuid")
"""Modules whose objects (dtypes, devices, dates) say as text what they are."""
_PLAIN = frozenset({str, int, bool, type(None)})


def to_plain(value: Any) -> Any:
    """Returns a library's value as plain data that canonical JSON takes; equal values, equal data.

    What JSON holds already stays as it is. Infinity and NaN become the strings `Infinity`,
    `-Infinity` and `NaN`; tuples and sets lists; scalars and arrays of numpy or torch Python's
    numbers; enums their values; paths, dtypes and devices their names; classes and functions their
    dotted names; and any other object that of its class, which says the same on every machine.
    """
    if type(value) in _PLAIN:  # most of what a row tells, and rows are many
        return value
    found: Any = value
    if isinstance(value, enum.Enum):
        found = to_plain(value.value)
    elif isinstance(value, float):
        found = value if math.isfinite(value) else _name_float(value)
    elif isinstance(value, Mapping):
        found = {_to_key(key): to_plain(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        found = [to_plain(each) for each in value]
    elif isinstance(value, Set):
        found = sorted((to_plain(each) for each in value), key=json.dumps)
    elif value is not None and not isinstance(value, str | bool | int):
        found = _describe_object(value)
    return found


def _describe_object(value: Any) -> Any:
    """Returns plain data of what is no number, text or collection of Python's own."""
    found: Any = _name_kind(value if hasattr(value, "__qualname__") else type(value))
    if isinstance(value, type):
        found = value.__name__ if value.__module__ == "numpy" else found
    elif hasattr(value, "tolist"):  # of numpy or torch: a scalar or an array
        found = to_plain(value.tolist())
    elif isinstance(value, PurePath):
        found = value.as_posix()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = to_plain(dataclasses.asdict(value))
    elif hasattr(value, "model_dump"):
        found = to_plain(value.model_dump())
    elif type(value).__module__ in _NAMED:
        found = str(value).removeprefix("torch.")
    return found


def _name_kind(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _name_float(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _to_key(key: Any) -> Any:
    plain = to_plain(key)
    return plain if plain is None or isinstance(plain, str | bool | int | float) else str(plain)


def write_json(
    value: Any, *, indent: int | None = 1, ensure_ascii: bool = True, sort_keys: bool = False
) -> str:
    """Writes results as JSON that every reader takes: numbers that are not finite become null.

    Python alone writes and reads NaN and Infinity, which are no JSON (RFC 8259, section 6).
    """
    options: dict[str, Any] = {"indent": indent, "ensure_ascii": ensure_ascii}
    options |= {"sort_keys": sort_keys, "allow_nan": False}
    try:
        return json.dumps(value, **options)
    except (TypeError, ValueError):  # not plain, or not finite: rare where rows are many
        return json.dumps(_blank(value), **options)


def _blank(value: Any) -> Any:
    """Returns results with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _blank(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_blank(each) for each in value]
    return _blank(value.tolist()) if hasattr(value, "tolist") else value
