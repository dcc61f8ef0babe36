"""Scored images of both sets, kept as a table so that thresholds can be chosen without sampling."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.errors import InputError, MismatchError, MissingError, StoreError
from factory.core.files.atomic import write_atomically
from factory.core.parquet import read_parquet

TABLE_NAME = "scores.parquet"
_HEADER_KEY = b"calibration"
NO_CLASS = "(no class)"
"""Stands for the class of images that have none."""
REAL, MISLABELLED, SYNTHETIC = "real", "mislabelled", "synthetic"
SETS = (REAL, MISLABELLED, SYNTHETIC)
"""Real images; the same, judged as if another class had been asked for; first tries."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored image: a real one, or the first try at a request.

    Attributes:
        set: one of `SETS`.
        key: the real image's key, or the seed of the try.
        group: the class that was asked for, or `NO_CLASS`.
        series: key of the try's series; None for real images.
        scores: as `score_all` gives them; NaN where one does not apply.
        looks: of a try, share of the steps -> scores of the image foreseen there, likewise.
    """

    set: str
    key: str
    group: str
    series: str | None
    scores: Mapping[str, float]
    looks: Mapping[float, Mapping[str, float]] = field(default_factory=dict)

    @property
    def class_name(self) -> str | None:
        """Its class, if it has one."""
        return None if self.group == NO_CLASS else self.group


@dataclass(frozen=True, slots=True)
class Header:
    """What was scored, how, and how long it took.

    Attributes:
        content: digest of all that shapes images and scores: the recipe without thresholds.
        seconds: per synthetic candidate, sampled and judged.
        real: root, fit and the like of the real set; None without one.
        notes: what the reader must know of the sets.
    """

    content: str
    seconds: float
    real: dict[str, Any] | None
    notes: tuple[str, ...] = field(default_factory=tuple)


def write_table(
    folder: Path, header: Header, rows: Sequence[Scored], verdicts: Sequence[dict[str, Any]]
) -> None:
    """Writes `scores.parquet`: one row per image with scores and the present verdict.

    Args:
        folder: made already.
        header: kept in the file's metadata.
        rows: of both sets.
        verdicts: `accepted`, `rejected_by` and `reason` of each row.
    """
    names = sorted({name for row in rows for name in row.scores})
    scores = pa.struct([pa.field(name, pa.float64()) for name in names])
    schema = pa.schema(
        [
            pa.field("set", pa.string()),
            pa.field("key", pa.string()),
            pa.field("class_name", pa.string()),
            pa.field("series", pa.string()),
            pa.field("accepted", pa.bool_()),
            pa.field("rejected_by", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("scores", scores),
            pa.field("looks", pa.map_(pa.float64(), scores)),
        ],
        metadata={_HEADER_KEY: json.dumps(asdict(header)).encode()},
    )
    plain = [
        {
            "set": row.set,
            "key": row.key,
            "class_name": None if row.group == NO_CLASS else row.group,
            "series": row.series,
            **verdict,
            "scores": _leave_out_nan(row.scores),
            "looks": [(share, _leave_out_nan(each)) for share, each in row.looks.items()],
        }
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    with write_atomically(folder / TABLE_NAME) as path:
        pq.write_table(pa.Table.from_pylist(plain, schema=schema), path)


def read_table(folder: Path, content: str) -> tuple[Header, list[Scored]]:
    """Reads what `write_table` wrote.

    Raises:
        InputError: no table there, or a damaged one.
        MismatchError: it was scored under another recipe.
    """
    path = folder / TABLE_NAME
    try:
        table = read_parquet(path)
        header = Header(**json.loads(table.schema.metadata[_HEADER_KEY]))
    except MissingError as error:
        raise InputError(f"{path}: not there: calibrate without --reuse first") from error
    except (StoreError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}): calibrate without --reuse") from error
    if header.content != content:
        raise MismatchError(
            f"{path}: was scored under another generator, other classes or other filters: only "
            "thresholds, accept, counts and budget may change; calibrate without --reuse"
        )
    rows = [
        Scored(
            set=row["set"],
            key=row["key"],
            group=row["class_name"] or NO_CLASS,
            series=row["series"],
            scores=_put_nan(row["scores"]),
            looks={share: _put_nan(scores) for share, scores in row.get("looks") or ()},
        )
        for row in table.to_pylist()
    ]
    return header, rows


def _leave_out_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _put_nan(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in scores.items()}
