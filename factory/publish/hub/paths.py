"""Takes this machine's places out of what is published: absolute paths keep their last part."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from factory.core.hashing import to_canonical_json
from factory.core.parquet import open_parquet
from factory.core.places import list_places, shorten_place, shorten_places
from factory.data.writers.parquet import ROW_GROUP

HINT = r'(?:^|["\]:/])(?:/|~[\w.-]*/|[A-Za-z]:[\\/])'
"""What JSON text that holds a path holds too, in the syntax of RE2; other texts may hold it."""
COLUMNS = ("model", "provenance")
"""Columns of rows in which names of files can stand."""


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
    return shorten_place(cell)


def _iterate_values(table: pa.Table) -> Iterator[Any]:
    for name in table.column_names:
        cells = table.column(name).unique()
        for cell in cells.filter(pc.match_substring_regex(cells, HINT)).to_pylist():
            if cell is not None:
                yield json.loads(cell) if name == "provenance" else cell
