"""Rows of text tables (CSV, TSV, JSON lines), strict: what is not plain names its file and line."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
_DO = "correct it, or remove it"
_MARK = b"\xef\xbb\xbf"
"""With which some programs begin UTF-8."""
_END = re.compile("\r\n|\n|\r")

Span = tuple[int, int, int]
"""Of a record: its first line, from 1, and its bytes: the first, and the one after the last."""


def find_fault(text: str) -> str | None:
    """Says what keeps text from being stored: a NUL or a lone surrogate; None where it is sound."""
    bad = _NOT_TEXT.search(text)
    if bad is None:
        return None
    what = "a NUL" if bad.group() == "\0" else f"the lone surrogate {bad.group()!r}"
    return f"holds {what}, which is no text"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its end) of a UTF-8 file.

    Raises:
        SourceError: not readable, not UTF-8, or a NUL in it.
    """
    for (number, _, _), line in _scan_lines(path):
        yield number, line


def _scan_lines(path: Path) -> Iterator[tuple[Span, str]]:
    """Yields lines with their places; of a large file, one is in memory."""
    for number, (start, raw) in enumerate(_split_lines(path), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            raise SourceError(
                f"{path}:{number}: not readable as UTF-8 (byte 0x{byte:02x}): save it as UTF-8"
            ) from error
        if "\0" in line:
            raise SourceError(f"{path}:{number}: holds a NUL: save it as plain UTF-8 text")
        yield (number, start, start + len(raw)), line


def _split_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (first byte, line without its end); a last end has an empty line after it."""
    start, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            # Only these ends: U+2028 and its like may stand in a caption.
            for last in file:
                end = len(last) - len(last.removesuffix(b"\n").removesuffix(b"\r"))
                end = end if last.endswith(b"\n") else 0
                parts = last[: len(last) - end].split(b"\r")
                for place, part in enumerate(parts):
                    mark = len(_MARK) if start == 0 and part.startswith(_MARK) else 0
                    yield start + mark, part[mark:]
                    start += len(part) + (end if place == len(parts) - 1 else 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    if last.endswith(b"\n"):
        yield start, b""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, row) of a CSV, TSV or JSON lines file; the values of the former are text.

    Raises:
        SourceError: not readable; a row with more or fewer fields than the header; a header or key
            twice, or without a name; quotes left open; a line that is no JSON object; values that
            no file can hold.
    """
    for (number, _, _), row in scan_rows(path):
        yield number, row


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Returns all (line, row) of a CSV or TSV file, whose values are text.

    Raises:
        SourceError: as `read_rows`, another ending, or no rows.
    """
    if path.suffix.lower() not in DELIMITERS:
        raise SourceError(f"{path}: want a table that ends in {' or '.join(DELIMITERS)}")
    rows = list(read_rows(path))
    if not rows:
        raise SourceError(f"{path}: has no rows: write one for each image below the header")
    return rows


def scan_rows(path: Path) -> Iterator[tuple[Span, dict[str, Any]]]:
    """Yields rows with where they stand, so that each can be read again; errors as `read_rows`."""
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        yield from _scan_delimited(path, DELIMITERS[suffix])
        return
    for span, line in _scan_lines(path):
        if line.strip():
            yield span, _parse_object(line, f"{path}:{span[0]}")


def parse_again(data: bytes, suffix: str, header: Sequence[str]) -> dict[str, Any]:
    """Returns the row of a span that `scan_rows` found sound.

    Args:
        data: its bytes.
        suffix: of the file, in small letters.
        header: of a CSV or TSV file.
    """
    text = data.decode()
    if suffix in DELIMITERS:
        lines = (f"{line}\n" for line in _END.split(text))
        fields = next(csv.reader(lines, delimiter=DELIMITERS[suffix], strict=True))
        return dict(zip(header, fields, strict=True))
    row: dict[str, Any] = json.loads(text)
    return row


def _scan_delimited(path: Path, delimiter: str) -> Iterator[tuple[Span, dict[str, Any]]]:
    header: list[str] | None = None
    for span, fields in _split_records(path, delimiter):
        where = f"{path}:{span[0]}"
        if header is None:
            header = fields
            _check_header(header, where)
            continue
        if len(fields) != len(header):
            do = "put a field that holds the delimiter in double quotes"
            others = [each for each in ";\t," if len(header) == 1 and each in header[0]]
            if others:
                do = f"save it with {delimiter!r} between fields, not {others[0]!r}"
            raise SourceError(
                f"{where}: {len(fields)} fields, but the header names {len(header)}: {do}"
            )
        yield span, dict(zip(header, fields, strict=True))


def _split_records(path: Path, delimiter: str) -> Iterator[tuple[Span, list[str]]]:
    """Yields the place and fields of each record that is not blank."""
    taken: list[tuple[Span, str]] = []

    def take() -> Iterator[str]:
        for span, line in _scan_lines(path):
            taken.append((span, line))
            yield line + "\n"

    reader = csv.reader(take(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            first = taken[0][0][0] if taken else 1
            raise SourceError(f"{path}:{first}: not readable ({error}): {_DO}") from error
        if fields is None:
            return
        first, start, _ = taken[0][0]
        if sum(text.count('"') for _, text in taken) % 2:
            raise SourceError(
                f'{path}:{first}: a double quote without its pair: write "" for one inside a '
                "quoted field"
            )
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield (first, start, taken[-1][0][2]), fields


def _check_header(header: list[str], where: str) -> None:
    for place, name in enumerate(header, 1):
        if not name.strip():
            raise SourceError(
                f"{where}: column {place} has no name: name it, or write the file without it "
                "(pandas: index=False)"
            )
        if header.index(name) < place - 1:
            raise SourceError(f"{where}: column {name!r} stands twice: rename or remove one")


def _parse_object(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise SourceError(f"{where}: want one JSON object a line, got {type(row).__name__}")
    return row


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON whose keys stand once and whose values files can hold.

    Raises:
        SourceError: it is none; names `where`.
    """

    def unite(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise SourceError(f"{where}: field {key!r} stands twice: remove one")
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=unite)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", None) or str(error)
        raise SourceError(f"{where}: not a JSON object ({what}): {_DO}") from error
    _check_values(value, where)
    return value


def _check_values(value: Any, where: str) -> None:
    if isinstance(value, str):
        fault = find_fault(value)
        if fault is not None:
            raise SourceError(f"{where}: {fault}: {_DO}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise SourceError(f"{where}: {value} is no number: {_DO}")
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_values(key, where)
            _check_values(each, f"{where}: {key}")
    elif isinstance(value, list):
        for each in value:
            _check_values(each, where)
