"""Channels in tables: nested lists that `datasets` reads as `Array3D`, from and to arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.plain import write_json
from factory.data.channels import COLUMN, Values, decode_values
from factory.data.provenance import ChannelsRecord, GeneratorRecord

METADATA = b"factory.channels"
"""Key of a table's metadata: names, units and type of the channels as JSON."""
ARROW = {
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "float16": pa.float16(),
    "float32": pa.float32(),
}


def list_channel_fields(channels: ChannelsRecord | None) -> list[tuple[str, pa.DataType]]:
    """Returns the column of a data set: nested lists, so that nobody needs a type of `datasets`."""
    if channels is None:
        return []
    return [(COLUMN, pa.list_(pa.list_(pa.list_(ARROW[channels.dtype]))))]


def build_metadata(maker: GeneratorRecord) -> dict[bytes, bytes]:
    """Returns what the metadata of a table say of the channels that a generator makes."""
    channels = maker.channels
    if channels is None:
        return {}
    shape = [len(channels.named), maker.height, maker.width]
    told = {**channels.to_json(), "shape": shape}
    return {METADATA: write_json(told, indent=None, ensure_ascii=False).encode()}


def strip_extension(kind: pa.DataType) -> pa.DataType:
    """Returns the type that lies in files; `datasets` reads its own, once it is imported."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def measure_channels(schema: pa.Schema) -> int:
    """Returns the bytes of the channels of one row, as the metadata of a table describe them."""
    told = (schema.metadata or {}).get(METADATA)
    if told is None:
        return 0
    channels = json.loads(told)
    size: int = math.prod(channels["shape"]) * np.dtype(channels["dtype"]).itemsize
    return size


def build_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Returns the table of rows; channels are .npy bytes, arrays or None."""
    place = schema.get_field_index(COLUMN)
    if place < 0:
        return pa.Table.from_pylist(rows, schema=schema)
    column = schema.field(place)
    table = pa.Table.from_pylist(rows, schema=schema.remove(place))
    plain = strip_extension(column.type)
    built: list[Any] = [_build_cell(row.get(COLUMN), plain) for row in rows]
    if plain != column.type:
        built = [column.type.wrap_array(each) for each in built]
    cells = pa.chunked_array(built, column.type)
    return table.add_column(place, column, cells).replace_schema_metadata(schema.metadata)


def _build_cell(value: bytes | Values | None, kind: pa.DataType) -> pa.Array:
    """Returns an array of one cell, without a Python object for each value."""
    if value is None:
        return pa.nulls(1, kind)
    values = decode_values(value, "row") if isinstance(value, bytes) else value
    count, height, width = values.shape
    found: Any = pa.array(np.ascontiguousarray(values).reshape(-1))
    for step, size in ((width, count * height), (height, count), (count, 1)):
        offsets = pa.array(np.arange(size + 1, dtype=np.int32) * step)
        found = pa.ListArray.from_arrays(offsets, found)
    return found


def read_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Returns rows as dicts; channels of a data set as (C, H, W) arrays."""
    place = table.schema.get_field_index(COLUMN)
    if place < 0 or pa.types.is_binary(table.schema.field(place).type):
        found: list[dict[str, Any]] = table.to_pylist()
        return found
    others = [name for name in table.schema.names if name != COLUMN]
    rows = table.select(others).to_pylist() if others else [{} for _ in range(table.num_rows)]
    cells = (_read_cell(cell) for cell in table.column(place))
    return [{**row, COLUMN: cell} for row, cell in zip(rows, cells, strict=True)]


def _read_cell(cell: Any) -> Values | None:
    nested = cell.value.values if isinstance(cell, pa.ExtensionScalar) else cell.values
    if nested is None:
        return None
    planes = nested.flatten()
    flat = planes.flatten()
    count, height = len(nested), len(planes) // max(len(nested), 1)
    values: Values = flat.to_numpy(zero_copy_only=False)
    return values.reshape(count, height, -1)


def list_arrays(column: pa.ChunkedArray) -> list[Values | None]:
    """Returns an array for each cell of a column of lists of numbers, without an object for each.

    They are parts of one; None where a cell is empty.
    """
    found: list[Values | None] = []
    for chunk in column.chunks:
        values: Values = chunk.flatten().to_numpy(zero_copy_only=False)
        sizes = chunk.value_lengths().to_pylist()  # fill_null would import pandas
        if len(set(sizes)) == 1 and sizes[0]:
            found.extend(values.reshape(len(sizes), sizes[0]))
            continue
        start = 0
        for size in sizes:
            found.append(None if size is None else values[start : start + size])
            start += size or 0
    return found
