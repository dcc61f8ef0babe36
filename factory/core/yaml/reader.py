"""YAML text to plain data with the line and column of every field, refusing what surprises.

The subset is YAML 1.2 core: only `true` and `false` are booleans, so classes named `no` or `on`
stay text, and `1e-3` is a number. Keys are always text. Tags, anchors, aliases and merge keys are
refused, so no input can construct objects or expand beyond its own size.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from factory.core.errors import Problem, RecipeError

FieldPath = tuple[str | int, ...]
Position = tuple[int, int]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_PROBLEMS = 50
MAX_DIGITS = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # YAML 1.2.2, rule c-printable


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML file holds, and where.

    Attributes:
        data: plain dicts, lists, text, numbers, booleans and None; the top is a mapping.
        positions: path of a field -> (line, column) of its key or list entry, from 1.
        file: name for messages.
        overridden: path of a field -> the `--set a.b=c` that gave its value.
    """

    data: dict[str, Any]
    positions: Mapping[FieldPath, Position]
    file: str
    overridden: Mapping[FieldPath, str] = field(default_factory=dict)

    def make_problem(self, path: FieldPath, message: str) -> Problem:
        """Builds a problem at a field; a field that is not there is placed at what holds it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overridden:
                return Problem(
                    format_path(path), message, f"--set {self.overridden[path[:length]]}"
                )
            if path[:length] in self.positions:
                line, column = self.positions[path[:length]]
                return Problem(format_path(path), message, self.file, line, column)
        return Problem(format_path(path), message, self.file, 1, 1)


def format_path(path: FieldPath) -> str:
    """Writes a path as `conditions[1].per_class.tumor`; odd keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[\w %+-]+", part) else json.dumps(part)
            text += f".{name}" if text else name
    return text


def read_document(path: Path) -> Document:
    """Reads one YAML file.

    Raises:
        RecipeError: not a file, too large, not UTF-8, not YAML, or YAML that is not accepted here.
    """
    file = str(path)
    try:
        if not path.is_file():
            what = "is a folder: name a file in it" if path.is_dir() else "no such file"
            raise RecipeError((Problem("", what, file),))
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RecipeError((Problem("", f"cannot be read ({error})", file),)) from error
    if len(raw) > MAX_BYTES:
        message = f"must be at most {MAX_BYTES} bytes: put long lists into files of their own"
        raise RecipeError((Problem("", message, file, 1, 1),))
    return parse_document(_decode(raw, file), file)


def parse_document(text: str, file: str) -> Document:
    """Reads YAML text whose top level is a mapping.

    Raises:
        RecipeError: with every problem found, each with its line and column.
    """
    data, positions = _parse(text, file)
    if not isinstance(data, dict):
        got = "nothing" if data is None else f"{type(data).__name__} {str(data)[:40]!r}"
        message = f"must hold a mapping of fields (`name: ...`), got {got}"
        raise RecipeError((Problem("", message, file, *positions[()]),))
    return Document(data, positions, file)


def parse_value(text: str, file: str) -> Any:
    """Reads one YAML value of any kind, as after `--set a.b=`.

    Raises:
        RecipeError: not YAML, or YAML that is not accepted here.
    """
    return _parse(text, file)[0]


def _decode(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = f"not UTF-8 text (byte 0x{raw[error.start]:02x}): save it as UTF-8"
        raise RecipeError((Problem("", message, file, line, 1),)) from error


def _parse(text: str, file: str) -> tuple[Any, dict[FieldPath, Position]]:
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        before = text[: bad.start()]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"control character {bad.group()!r}: remove it; a recipe is plain text"
        raise RecipeError((Problem("", message, file, *place),))
    builder = _Builder(file)
    try:
        data = builder.build_stream(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        builder.problems.append(_describe_syntax_error(error, text, file))
        data = None
    if builder.problems:
        raise RecipeError(tuple(builder.problems))
    return data, builder.positions


def _describe_syntax_error(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    lines = text.splitlines()
    found = lines[line - 1] if line <= len(lines) else ""
    if "\t" in found[: len(found) - len(found.lstrip())]:
        do = "indent with spaces, not tabs"
    else:
        do = "check indentation, quotes and brackets here or just above"
    return Problem(
        "", f"not valid YAML ({what}), got {found.strip()[:60]!r}: {do}", file, line, column
    )


class _Builder:
    """Builds plain data from parser events, with a bounded depth."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: dict[FieldPath, Position] = {}
        self.problems: list[Problem] = []

    def build_stream(self, events: Iterator[Any]) -> Any:
        data, documents = None, 0
        self.positions[()] = (1, 1)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse((), event, "a second document (`---`): keep one in a file")
                    break
                first = next(events)
                self.positions[()] = _place(first)
                data = self._build(first, events, (), 0)
        return data

    def _refuse(self, path: FieldPath, event: Any, message: str) -> None:
        self.problems.append(Problem(format_path(path), message, self.file, *_place(event)))
        if len(self.problems) >= MAX_PROBLEMS:
            raise RecipeError(tuple(self.problems))

    def _build(self, event: Any, events: Iterator[Any], path: FieldPath, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(path, event, f"alias *{event.anchor}: write the value out")
            return None
        if event.anchor is not None:
            self._refuse(
                path, event, f"anchor &{event.anchor}: write the value out where it is used"
            )
        if event.tag is not None:
            do = "remove it; quote what must stay text"
            self._refuse(path, event, f"tag {event.tag}: tags are not accepted: {do}")
        if isinstance(event, yaml.ScalarEvent):
            return self._build_scalar(event, path)
        if depth >= MAX_DEPTH:
            self._refuse(path, event, f"nested more than {MAX_DEPTH} deep: close some brackets")
            raise RecipeError(tuple(self.problems))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._build_list(events, path, depth)
        return self._build_mapping(events, path, depth)

    def _build_list(self, events: Iterator[Any], path: FieldPath, depth: int) -> list[Any]:
        found: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            inner = (*path, len(found))
            self.positions[inner] = _place(event)
            found.append(self._build(event, events, inner, depth + 1))
        return found

    def _build_mapping(self, events: Iterator[Any], path: FieldPath, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._build_key(event, events, path, depth)
            inner = (*path, key)
            if key in found:
                line = self.positions[inner][0]
                self._refuse(inner, event, f"stands twice, first at line {line}: remove one")
            else:
                self.positions[inner] = _place(event)
            found[key] = self._build(next(events), events, inner, depth + 1)
        return found

    def _build_key(self, event: Any, events: Iterator[Any], path: FieldPath, depth: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(path, event, "a key must be text, got a list, a mapping or an alias")
            self._build(event, events, path, depth + 1)
            return ""
        if event.value == "<<" and event.implicit[0]:
            self._refuse((*path, "<<"), event, "merge key: write the fields out")
        if event.tag is not None or event.anchor is not None:
            self._refuse((*path, event.value), event, "a key takes no tag and no anchor: remove it")
        if not _is_text(event.value):
            self._refuse(path, event, f"key {event.value!r} holds a character that is not text")
        return str(event.value)

    def _build_scalar(self, event: Any, path: FieldPath) -> Any:
        text = event.value
        if not _is_text(text):
            self._refuse(path, event, f"must be text, got a character that is not: {text[:40]!r}")
            return None
        number = _parse_plain(text) if event.implicit[0] else text
        if isinstance(number, float) and not math.isfinite(number):
            self._refuse(path, event, f"must be a finite number, got {text[:40]}")
            return None
        return number


def _parse_plain(text: str) -> Any:
    """Resolves a plain scalar by the YAML 1.2 core schema (YAML 1.2.2, section 10.3.2)."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    return math.inf if _NOT_FINITE.fullmatch(text) else text


def _is_text(text: str) -> bool:
    """Whether text has no NUL and no lone surrogate, which no file or column can hold."""
    return re.search("[\x00\ud800-\udfff]", text) is None


def _place(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1
