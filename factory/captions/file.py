"""Caption files: reads captions, and classes, from jsonl, csv, tsv, parquet or plain text."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.errors import SourceError, StoreError
from factory.parquet import read_parquet


def read_captions(
    path: Path, column: str, class_column: str | None
) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Reads captions, and classes if asked, from jsonl, csv, tsv, parquet or plain text.

    Returns:
        Captions with outer blanks removed, and one class or None for each.

    Raises:
        SourceError: unreadable, a column missing, or an empty caption; names the line.
    """
    captions: list[str] = []
    classes: list[str | None] = []
    for place, row in _iterate_rows(path, column):
        for name in (column, class_column):
            if name is not None and name not in row:
                has = ", ".join(map(str, row))
                raise SourceError(f"{path}:{place}: no field {name!r}: it has {has}")
        caption = row[column]
        if not isinstance(caption, str) or not caption.strip():
            raise SourceError(f"{path}:{place}: {column}: empty caption: write one or drop the row")
        captions.append(caption.strip())
        classes.append(None if class_column is None else str(row[class_column]))
    if not captions:
        raise SourceError(f"{path}: holds no captions")
    return tuple(captions), tuple(classes)


def _iterate_rows(path: Path, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from enumerate(read_parquet(path).to_pylist(), 1)
            return
        with path.open(newline="", encoding="utf-8-sig") as file:
            if suffix in {".csv", ".tsv"}:
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                for values in reader:
                    yield reader.line_num, values
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if suffix in {".jsonl", ".ndjson", ".json"}:
                    yield number, _parse_json_line(path, number, line)
                else:
                    yield number, {column: line}
    except StoreError as error:
        raise SourceError(str(error)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as {suffix or 'text'} ({error})") from error


def _parse_json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{number}: not a JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}:{number}: want one JSON object a line, got {type(row).__name__}")
    return row
