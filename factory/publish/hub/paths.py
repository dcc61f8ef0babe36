"""Takes this machine's places out of what is published: absolute paths keep their last part."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from factory.core.hashing import to_canonical_json
from factory.core.parquet import open_parquet
from factory.data.writers.parquet import ROW_GROUP

PREFIX = r"(?:(?:open_clip|timm|transformers|torchvision|local-dir|file):)*(?://)?"
START = r"(?:/(?=[^\s/])|~[\w.-]*/|[A-Za-z]:[\\/])"
PLACE = re.compile(rf"^(?P<prefix>{PREFIX})(?P<place>{START}.*)$", re.DOTALL)
"""A text that is an absolute path, perhaps behind the name of a library that loads it."""
HINT = r'(?:^|["\]:/])(?:/|~[\w.-]*/|[A-Za-z]:[\\/])'
"""What JSON text that holds a path holds too, in the syntax of RE2; other texts may hold it."""
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
COLUMNS = ("model", "provenance")
"""Columns of rows in which names of files can stand."""


def shorten_places(value: Any) -> Any:
    """Returns plain data with every absolute path cut to `.../` and its last part."""
    if isinstance(value, dict):
        return {key: each if key in WORDS else shorten_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shorten_places(each) for each in value]
    return _shorten(value) if isinstance(value, str) else value


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
        text = re.sub(pattern, _shorten(place).replace("\\", r"\\"), text)
    return text


def has_places(table: pa.Table) -> bool:
    """Whether any row names an absolute path."""
    return any(any(list_places(value)) for value in _iterate_values(table))


def rewrite_parquet(source: Path, target: io.IOBase | BinaryIO) -> None:
    """Writes a parquet file again without places; schema, rows and row groups stay as they are.

    Args:
        source: the file.
        target: a stream to write to, left open.
    """
    with (
        open_parquet(source) as table,
        pq.ParquetWriter(
            target, table.schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for group in range(len(table.groups)):
            writer.write_table(_shorten_table(table.read_group(group)), ROW_GROUP)


def _shorten_table(table: pa.Table) -> pa.Table:
    for name in COLUMNS:
        place = table.schema.get_field_index(name)
        if place < 0:
            continue
        column = [_shorten_cell(name, cell) for cell in table.column(place).to_pylist()]
        table = table.set_column(place, table.schema.field(place), pa.array(column, pa.string()))
    return table


def _shorten_cell(name: str, cell: str | None) -> str | None:
    if cell is None:
        return None
    if name == "provenance":
        value = json.loads(cell)
        return to_canonical_json(shorten_places(value)) if any(list_places(value)) else cell
    return _shorten(cell)


def _iterate_values(table: pa.Table) -> Iterator[Any]:
    for name in table.column_names:
        cells = table.column(name).unique()
        for cell in cells.filter(pc.match_substring_regex(cells, HINT)).to_pylist():
            if cell is not None:
                yield json.loads(cell) if name == "provenance" else cell


def _shorten(text: str) -> str:
    found = PLACE.match(text)
    if not found:
        return text
    last = re.split(r"[\\/]", found["place"].rstrip("/\\"))[-1]
    return f"{found['prefix']}.../{last}"
