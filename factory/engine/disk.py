"""What a run keeps on disk: rows of its shards, of the data set and of tars, measured on a few."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.data.records import Candidate
from factory.data.schema import CONTENT_COLUMNS, build_row
from factory.data.writers.webdataset import build_sample
from factory.recipe.recipe import Output

if TYPE_CHECKING:
    from factory.engine.shard import Worker

ROW = 4096
"""Bytes of a row besides its image, where none was made: mostly its provenance."""
SHOWN = frozenset({*dict(CONTENT_COLUMNS), "scores", "provenance"})
"""Columns of the data set; a shard has more."""
BLOCK = 512
"""Tar files are made of such blocks, in bytes: a header, and the member filled up to whole ones."""


@dataclass(frozen=True, slots=True)
class RowBytes:
    """Bytes of one row more, on average, and of a table's frame.

    Attributes:
        whole: in parquet, with its image.
        bare: the same without the image.
        in_tar: in a WebDataset tar.
        frame: of a parquet file: schema, footer, and what all rows share.
    """

    whole: float
    bare: float
    in_tar: float
    frame: float = 0.0


def assume_rows(width: int, height: int) -> RowBytes:
    """Returns the bytes of rows whose images (px) do not compress at all."""
    image = width * height * 3
    return RowBytes(image + ROW, ROW, image + ROW + 4 * BLOCK)


def measure_rows(worker: "Worker", candidates: Sequence[Candidate]) -> RowBytes:
    """Writes candidates as a shard and as tar members, in memory, and counts."""
    rows, bare = ([*_build(worker, candidates, keep)] for keep in (True, False))
    whole, frame = _fit(rows, worker.schema)
    return RowBytes(
        whole,
        _fit(bare, worker.schema)[0],
        sum(_measure_sample(row) for row in rows) / len(rows),
        frame,
    )


def sum_disk(
    output: Output, row: RowBytes, accepted: float, others: float, shards: int = 0
) -> float:
    """Returns the bytes of a finished run folder: shards, data set, and tars where asked for.

    Args:
        output: the recipe's section.
        row: bytes of one.
        accepted: rows of the data set.
        others: rejected and spare candidates.
        shards: tables that workers write.
    """
    kept = row.whole if output.keep_rejected == "images" else row.bare
    tars = row.in_tar * accepted if "webdataset" in output.formats else 0.0
    return 2 * (accepted * row.whole + others * kept) + tars + (shards + 2) * row.frame


def _build(worker: "Worker", candidates: Sequence[Candidate], keep: bool) -> Any:
    described: Mapping[str, Any] = worker.description
    for each in candidates:
        yield build_row(
            each,
            described["generator"],
            described["filters"],
            worker.recipe_sha256,
            worker.score_names,
            worker.recipe.output.image_format,
            keep_image=keep,
        )


def _fit(rows: list[dict[str, Any]], schema: pa.Schema) -> tuple[float, float]:
    """Returns the bytes of one row more, and those of the frame: rows compress each other."""
    half = len(rows) // 2
    whole = _write(rows, schema)
    if not half:
        return float(whole), 0.0
    each = (whole - _write(rows[:half], schema)) / (len(rows) - half)
    return each, whole - each * len(rows)


def _write(rows: list[dict[str, Any]], schema: pa.Schema) -> int:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return len(buffer.getvalue())


def _measure_sample(row: Mapping[str, Any]) -> int:
    """Returns the bytes of a row's members in a tar, the label among them."""
    sample = build_sample({**{name: row[name] for name in row if name in SHOWN}, "label": 0})
    parts = (value for key, value in sample.items() if key != "__key__")
    sizes = (len(each if isinstance(each, bytes) else str(each).encode()) for each in parts)
    return sum(BLOCK - (-size // BLOCK) * BLOCK for size in sizes)
