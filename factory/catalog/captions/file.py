"""Caption files: reads captions, and classes, from jsonl, csv, tsv, parquet or plain text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.parquet import read_parquet
from factory.core.text_rows import DELIMITERS, JSON_LINES, find_fault, read_lines, read_rows


def read_captions(
    path: Path, column: str, class_column: str | None
) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Reads captions, and classes if asked, from jsonl, csv, tsv, parquet or plain text.

    Returns:
        Captions with outer blanks removed, and one class or None for each.

    Raises:
        SourceError: unreadable, a column missing, or an empty caption or class; names the line.
    """
    captions: list[str] = []
    classes: list[str | None] = []
    for place, row in _iterate_rows(path, column):
        for name in (column, class_column):
            if name is not None and name not in row:
                has = ", ".join(map(str, row))
                raise SourceError(f"{path}:{place}: no field {name!r}: it has {has}")
        captions.append(_read_field(row, column, "caption", f"{path}:{place}"))
        if class_column is None:
            classes.append(None)
        else:
            classes.append(_read_field(row, class_column, "class", f"{path}:{place}"))
    if not captions:
        raise SourceError(f"{path}: holds no captions")
    return tuple(captions), tuple(classes)


def _read_field(row: dict[str, Any], column: str, what: str, where: str) -> str:
    value = row[column]
    if what == "class" and isinstance(value, int):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise SourceError(f"{where}: {column}: empty {what}: write one or drop the row")
    if not isinstance(value, str):
        got = type(value).__name__
        raise SourceError(f"{where}: {column}: want a {what} as text, got {got}")
    fault = find_fault(value)
    if fault is not None:
        raise SourceError(f"{where}: {column}: {fault}: write it anew, or drop the row")
    return value.strip()


def _iterate_rows(path: Path, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            yield from enumerate(read_parquet(path).to_pylist(), 1)
        except (StoreError, ValueError) as error:
            raise SourceError(str(error)) from error
    elif suffix in JSON_LINES or suffix in DELIMITERS:
        yield from read_rows(path)
    else:
        yield from ((number, {column: line}) for number, line in read_lines(path) if line.strip())
