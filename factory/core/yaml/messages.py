"""Words for errors: near misses, and what a pydantic error means to the writer of a recipe."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from factory.core.yaml.fields import FieldType
from factory.core.yaml.reader import FieldPath


class FieldsError(ValueError):
    """What a validator of a whole field found inside it: each with its path below that field."""

    def __init__(self, faults: Iterable[tuple[FieldPath, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{'.'.join(map(str, at))}: {what}" for at, what in self.faults))


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'x'?` for the nearest known name, or an empty text."""
    originals = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), list(originals), n=1, cutoff=0.6)
    if not near and len(name) >= 3:
        near = sorted((key for key in originals if key.startswith(name.lower())), key=len)
    return f"did you mean {originals[near[0]]!r}?" if near else ""


def advise(name: str, known: Sequence[str], limit: int = 12) -> str:
    """Returns the near miss, or the known names where nothing is near."""
    listed = ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
    return suggest(name, known) or f"known: {listed or 'none'}"


def show(value: Any) -> str:
    """Returns a value as a message shows it: short, and text in quotes."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str | int | float) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "path_type": "a path",
}


def name_wanted(details: Mapping[str, Any]) -> str | None:
    """Returns what kind of value was wanted, where the error is that it is of another kind."""
    if details["type"] == "literal_error":
        return str(details["ctx"]["expected"])
    return _WANTED.get(details["type"])


def write_message(kind: FieldType, details: Mapping[str, Any]) -> str:
    """Writes what, got, do for one pydantic error.

    Args:
        kind: type of the field, or of the model that lacks it.
        details: one entry of `ValidationError.errors()`.

    Returns:
        The message; empty where the error only echoes another.
    """
    write = _WRITERS.get(details["type"])
    if write is not None:
        return write(kind, details)
    if details["type"] in _WANTED:
        return _write_wanted(details)
    return f"{details['msg']}, got {show(details['input'])}"


def read_discriminator(details: Mapping[str, Any]) -> str:
    """Returns the field by which a union tells its branches apart, as an error names it."""
    return str(details["ctx"]["discriminator"]).strip("'")


def _write_wanted(details: Mapping[str, Any]) -> str:
    wanted, value = _WANTED[details["type"]], details["input"]
    quote = wanted == "text" and isinstance(value, bool | int | float)
    return f"must be {wanted}, got {show(value)}" + (": put it in quotes" if quote else "")


def _write_bound(symbol: str, key: str) -> Callable[[FieldType, Mapping[str, Any]], str]:
    def write(kind: FieldType, details: Mapping[str, Any]) -> str:
        bound = details["ctx"][key]
        text = f"{bound:g}" if isinstance(bound, float) else str(bound)
        return f"must be {symbol} {text}, got {show(details['input'])}"

    return write


def _write_missing(kind: FieldType, details: Mapping[str, Any]) -> str:
    about = f" ({kind.description})" if kind.description else ""
    return f"is missing{about}: add it"


def _write_unknown(kind: FieldType, details: Mapping[str, Any]) -> str:
    name = str(details["loc"][-1])
    return f"unknown field, got {show(details['input'])}: {advise(name, kind.fields, 30)}"


def _write_no_kind(kind: FieldType, details: Mapping[str, Any]) -> str:
    return f"is missing: add one of {', '.join(kind.tags)}"


def _write_unknown_kind(kind: FieldType, details: Mapping[str, Any]) -> str:
    tag, name = str(details["ctx"]["tag"]), read_discriminator(details)
    return f"unknown {name} {tag!r}: {advise(tag, kind.tags)}"


def _write_literal(kind: FieldType, details: Mapping[str, Any]) -> str:
    expected = str(details["ctx"]["expected"])
    near = suggest(str(details["input"]), re.findall(r"'([^']*)'", expected))
    return f"must be {expected}, got {show(details['input'])}" + (f": {near}" if near else "")


def _write_pattern(kind: FieldType, details: Mapping[str, Any]) -> str:
    return f"must match {details['ctx']['pattern']}, got {show(details['input'])}"


def _write_too_short(kind: FieldType, details: Mapping[str, Any]) -> str:
    least, value = details["ctx"]["min_length"], details["input"]
    if len(value) >= least:
        return ""  # pydantic repeats errors of the entries as an empty list
    wanted = "must not be empty" if least == 1 else f"must have at least {least} entries"
    return f"{wanted}, got {show(value)}"


def _write_too_long(kind: FieldType, details: Mapping[str, Any]) -> str:
    most = details["ctx"]["max_length"]
    return f"must be at most {most} long, got {len(details['input'])}: {show(details['input'])}"


def _write_own(kind: FieldType, details: Mapping[str, Any]) -> str:
    return str(details["ctx"]["error"])


_WRITERS: dict[str, Callable[[FieldType, Mapping[str, Any]], str]] = {
    "greater_than_equal": _write_bound(">=", "ge"),
    "greater_than": _write_bound(">", "gt"),
    "less_than_equal": _write_bound("<=", "le"),
    "less_than": _write_bound("<", "lt"),
    "multiple_of": _write_bound("a multiple of", "multiple_of"),
    "missing": _write_missing,
    "extra_forbidden": _write_unknown,
    "union_tag_not_found": _write_no_kind,
    "union_tag_invalid": _write_unknown_kind,
    "literal_error": _write_literal,
    "string_pattern_mismatch": _write_pattern,
    "string_too_short": _write_too_short,
    "too_short": _write_too_short,
    "string_too_long": _write_too_long,
    "too_long": _write_too_long,
    "value_error": _write_own,
}
