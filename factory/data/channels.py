"""Named channels of an image beside its RGB composite: checks, composite, hash, and table columns.

The composite is for people, and for filters of RGB. Its rule (`COMPOSITE`, in the provenance): each
channel is scaled from its `window`, or from the 1st and 99.8th percentile of its own values, to
[0, 1], clipped, multiplied with its colour, and all are added. Channels without a colour are left
out; where none has one, the first six are blue, green, red, yellow, magenta and cyan.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from factory.catalog.entries import ImageChannels
from factory.core.errors import DamageError, GenerationError
from factory.core.images import hash_pixels
from factory.core.plain import write_json
from factory.data.provenance import ChannelsRecord, GeneratorRecord
from factory.data.records import Sample

COLUMN = "channels"
"""Of rows: (C, H, W); in shards .npy bytes, in data sets nested lists, `datasets.Array3D`."""
METADATA = b"factory.channels"
"""Key of a table's metadata: names, units and type of the channels as JSON."""
COMPOSITE = "additive, window or 1-99.8 percentile"
PERCENTILES = (1.0, 99.8)
CYCLE = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0), (255, 0, 255), (0, 255, 255))
ARROW = {
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "float16": pa.float16(),
    "float32": pa.float32(),
}

Values = NDArray[Any]
"""(C, H, W) of one of the types of ARROW."""


def describe_channels(channels: ImageChannels | None) -> dict[str, Any]:
    """Returns what a generator's description says of its channels; nothing where it has none."""
    if channels is None:
        return {}
    named = [each.model_dump(mode="json", exclude_none=True) for each in channels.named]
    return {"channels": {"dtype": channels.dtype, "named": named, "composite": COMPOSITE}}


def compose_rgb(values: Values, channels: ImageChannels) -> NDArray[np.uint8]:
    """Returns the (H, W, 3) uint8 composite of (C, H, W) values, by the rule of this module."""
    colors = [channel.color for channel in channels.named]
    if not any(colors):
        colors = [*CYCLE[: len(colors)], *[None] * (len(colors) - len(CYCLE))]
    total = np.zeros((*values.shape[1:], 3))
    for plane, channel, color in zip(values, channels.named, colors, strict=True):
        if color is not None:
            total += _scale(plane, channel.window)[..., None] * np.asarray(color, np.float64)
    composite: NDArray[np.uint8] = np.rint(np.clip(total, 0.0, 255.0)).astype(np.uint8)
    return composite


def _scale(plane: Values, window: tuple[float, float] | None) -> NDArray[np.float64]:
    known = np.isfinite(plane)
    if not known.any():
        return np.zeros(plane.shape)
    wide = plane.astype(np.float64)
    low, high = np.percentile(wide[known], PERCENTILES) if window is None else window
    if high <= low:
        return np.zeros(plane.shape)
    return np.where(known, np.clip((np.where(known, wide, low) - low) / (high - low), 0, 1), 0)


def check_channels(sample: Sample, channels: ChannelsRecord | None) -> Values | None:
    """Returns the channels of a sample, as they are declared.

    Raises:
        GenerationError: it has none, others, or such as were never declared.
    """
    values = sample.channels
    if channels is None and values is None:
        return None
    if channels is None or values is None:
        missing = "declares no channels, and made some" if channels is None else "made no channels"
        raise GenerationError(f"the generator {missing}: family and catalog entry must agree")
    wanted = (len(channels.named), *sample.pixels.shape[:2])
    if values.shape != wanted or values.dtype != channels.dtype:
        raise GenerationError(
            f"channels must be {wanted} {channels.dtype}, the generator made {values.shape} "
            f"{values.dtype}: family and catalog entry must agree"
        )
    return values


def hash_image(pixels: NDArray[np.uint8], values: Values | None) -> str:
    """Returns the sha256 of the pixels, and of the channels where there are any.

    Without channels it is that of `hash_pixels`.
    """
    found = hash_pixels(pixels)
    if values is None:
        return found
    return hashlib.sha256(f"{found}:{hash_values(values)}".encode()).hexdigest()


def hash_values(values: Values) -> str:
    """Returns the sha256 of shape, type and values, 64 hex characters."""
    header = f"{'x'.join(map(str, values.shape))}:{values.dtype.name}:".encode()
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(header + little.tobytes()).hexdigest()


def encode_values(values: Values) -> bytes:
    """Returns the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def decode_values(data: bytes, where: str) -> Values:
    """Returns (C, H, W) of the bytes of a .npy file.

    Raises:
        DamageError: they are none; names `where`.
    """
    try:
        values: Values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamageError(f"{where}: channels: no readable .npy ({error})") from error
    if values.ndim != 3 or values.dtype.name not in ARROW:
        raise DamageError(f"{where}: channels: want (C, H, W), got {values.shape} {values.dtype}")
    return values


# --- tables --------------------------------------------------------------------------------------


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


def name_channels(channels: ChannelsRecord) -> str:
    """Returns names with units, for people."""
    units: Iterable[str] = (f" ({each.unit})" if each.unit else "" for each in channels.named)
    return ", ".join(each.name + unit for each, unit in zip(channels.named, units, strict=True))
