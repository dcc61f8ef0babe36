"""Markers and rows of committed shards, over all rounds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from factory.data.channel_tables import list_arrays
from factory.data.records import Shard
from factory.engine.later import Later
from factory.engine.plan import Outline
from factory.engine.run_folder import Marker, RunFolder

NUMBERS = ("descriptor", "features")
"""Columns of hundreds of numbers a row, which no data set has: read as arrays."""
PLACES = ("series", "index", "attempt")
"""Columns that tell where in the plan a row lies."""


def read_markers(folder: RunFolder, shard: Shard) -> list[Marker]:
    """Returns the markers of a shard's rounds, from round 0 on."""
    markers: list[Marker] = []
    while (marker := folder.read_marker(shard, len(markers))) is not None:
        markers.append(marker)
    return markers


def count_tried(markers: Iterable[Marker]) -> dict[int, int]:
    """Returns request -> first attempt that is left, of those that rows do not tell."""
    made: dict[int, int] = {}
    for marker in markers:
        for index, done in (marker.tried or {}).items():
            made[index] = max(made.get(index, 0), done)
    return made


def iterate_rows(
    folder: RunFolder, plan: Outline, columns: tuple[str, ...], later: Later
) -> Iterator[tuple[Shard, list[dict[str, Any]]]]:
    """Yields each committed shard with its rows, those before the end of its series.

    Raises:
        StoreError: a shard is damaged.
    """
    for shard in plan.iterate_shards():
        markers = read_markers(folder, shard)
        if markers:
            yield shard, keep_wanted(plan, read_rows(folder, markers, columns, later))


def count_beyond(folder: RunFolder, plan: Outline) -> dict[str, tuple[int, int]]:
    """Returns series that ended -> candidates made beyond its end, and those beside others of it.

    Raises:
        StoreError: a shard is damaged.
    """
    found: dict[str, tuple[int, int]] = {}
    for shard in plan.cut({}).iterate_shards() if plan.stops else ():
        if plan.wants(shard.series, shard.stop - 1):
            continue
        markers = read_markers(folder, shard)
        rows = sum(marker.rows for marker in markers)
        is_beside = plan.wants(shard.series, shard.start)
        if is_beside:
            rows -= len(keep_wanted(plan, read_rows(folder, markers, PLACES, Later())))
        beyond, beside = found.get(shard.series, (0, 0))
        found[shard.series] = beyond + rows, beside + rows * is_beside
    return found


def keep_wanted(plan: Outline, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of a shard that lie before the end of its series: its first ones."""
    if not plan.stops:
        return rows
    return [row for row in rows if plan.wants(row["series"], row["index"])]


def read_rows(
    folder: RunFolder, markers: Sequence[Marker], columns: tuple[str, ...], later: Later
) -> list[dict[str, Any]]:
    """Returns the rows of a shard's rounds, by request and attempt.

    Args:
        folder: run folder.
        markers: of the rounds.
        columns: those to read.
        later: scores to lay over those that are read.

    Raises:
        StoreError: damaged data.
    """
    rows: list[dict[str, Any]] = []
    for marker in markers:
        table = folder.read_table(marker, columns)
        apart = [name for name in NUMBERS if name in columns]
        more = table.drop_columns(apart).to_pylist()
        for name in apart:
            for row, numbers in zip(more, list_arrays(table[name]), strict=True):
                row[name] = numbers
        rows.extend(more)
    if "scores" in columns:
        later.lay_over(rows)
    return sorted(rows, key=lambda row: (row["index"], row["attempt"]))


def pick_rows(
    folder: RunFolder, markers: Sequence[Marker], places: Sequence[int], later: Later
) -> list[dict[str, Any]]:
    """Returns some rows of a shard's rounds, all but NUMBERS, with the shard's hashes checked.

    Args:
        folder: run folder.
        markers: of the rounds.
        places: of the rows, among all by request and attempt.
        later: scores to lay over those that are read.

    Raises:
        StoreError: damaged data.
    """
    tables = [folder.read_table(marker, verify=True, without=NUMBERS) for marker in markers]
    index, attempt = (
        np.concatenate([table[name].to_numpy() for table in tables])
        for name in ("index", "attempt")
    )
    wanted = np.lexsort((attempt, index))[list(places)]
    found: dict[int, dict[str, Any]] = {}
    first = 0
    for table in tables:
        is_wanted = np.isin(np.arange(first, first + len(table)), wanted)
        rows = table.filter(pa.array(is_wanted)).to_pylist()
        found.update(zip((first + np.flatnonzero(is_wanted)).tolist(), rows, strict=True))
        first += len(table)
    later.lay_over(found.values())
    return [found[row] for row in wanted.tolist()]
