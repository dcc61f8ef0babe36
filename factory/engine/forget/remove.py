"""Removes rows from shards and parts: each is committed anew without them, the old one removed.

A kill at any point leaves what was, or what is wanted; the same call again ends what was begun.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from factory.core.errors import MissingError
from factory.core.files.new_folder import WORK
from factory.core.hashing import hash_bytes
from factory.core.parquet import read_parquet
from factory.data.schema import count_cut
from factory.engine.forget.touched import (
    SHARDS,
    Matches,
    Round,
    iterate_rounds,
    list_groups,
    read_part,
)
from factory.engine.parts import PARTS, PartMarker
from factory.engine.plan import Outline
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import Marker, count_rejected, dump_record, dump_table

_COUNTED = ["index", "attempt", "accepted", "rejected_by", "reason", "prompt", "provenance"]


def strip_round(folder: RunFolder, one: Round, matches: Matches) -> int:
    """Commits a round of a shard without somebody's rows; the others stay as they are.

    Returns:
        How many rows were removed.

    Raises:
        StoreError: damaged data, or the commit failed; then the round is as it was.
    """
    marker = one.marker
    table = folder.read_table(marker, verify=True)
    stays = [
        not matches(list_groups(row, marker.data))
        for row in table.select(["provenance"]).to_pylist()
    ]
    if all(stays):
        return 0
    kept = table.filter(pa.array(stays, pa.bool_()))
    folder.confirm()
    new = folder.commit(kept, _count_again(marker, table, kept, stays), one.shard)
    if new.data != marker.data:
        folder.files.remove(f"{WORK}/{marker.data}")
    return len(stays) - sum(stays)


def _count_again(marker: Marker, table: pa.Table, kept: pa.Table, stays: Sequence[bool]) -> Marker:
    """Returns the marker of what is left, which tells the attempts that are done with."""
    rows = kept.select([name for name in _COUNTED if name in kept.column_names]).to_pylist()
    tried = dict(marker.tried or {})
    indices = zip(table["index"].to_pylist(), stays, strict=True)
    touched = {index for index, stay in indices if not stay}
    tried |= {index: tried.get(index, 0) for index in touched}  # from 0 on, what may be made
    for row in (each for each in rows if each["index"] in touched):
        tried[row["index"]] = max(tried[row["index"]], row["attempt"] + 1)
    update: dict[str, Any] = {
        "rows": len(rows),
        "generated": len(rows),
        "filled": len({row["index"] for row in rows if row["accepted"]}),
        **count_rejected(rows),
        "tried": dict(sorted(tried.items())) or None,
        "cut": count_cut(rows),
    }
    return marker.model_copy(update=update)


def strip_part(folder: RunFolder, name: str, matches: Matches) -> None:
    """Commits a part of an unfinished shard without somebody's rows; a damaged one is removed.

    A worker makes again what it misses, and passes over what it must not make.
    """
    rows = read_part(folder, name)
    if rows is None:
        folder.files.remove(name)
        return
    marker = PartMarker.parse(folder.files.read(name))
    table = read_parquet(folder.files.read(marker.data), name=marker.data)
    stays = [not matches(list_groups(row, name)) for row in rows]
    kept = table.filter(pa.array(stays, pa.bool_()))
    data = dump_table(kept)
    digest = hash_bytes(data)
    place = name.replace(".json", f"-{digest[:16]}.parquet")
    update = {"data": place, "sha256": digest, "rows": len(kept)}
    folder.files.write(place, data)
    folder.files.write(name, dump_record(marker.model_copy(update=update)))
    if place != marker.data:
        folder.files.remove(marker.data)


def sweep(folder: RunFolder, plan: Outline) -> None:
    """Removes data that no marker names, and what writers that died left half written."""
    named = {f"{WORK}/{one.marker.data}" for one in iterate_rounds(folder, plan)}
    for name in folder.files.list(PARTS):
        if name.endswith(".json") and not name.startswith("."):
            named |= _name_part(folder, f"{PARTS}/{name}")
    lost = [
        name
        for place in (SHARDS, PARTS)
        for each in folder.files.list(place)
        if (name := f"{place}/{each}").endswith(".parquet") and name not in named
    ]
    lost += [
        name
        for name in folder.files.list_sizes()
        if name.endswith(".tmp") and name.rpartition("/")[2].startswith(".")
    ]
    for name in dict.fromkeys(lost):
        folder.files.remove(name)


def _name_part(folder: RunFolder, name: str) -> set[str]:
    try:
        return {PartMarker.parse(folder.files.read(name)).data}
    except MissingError:
        return set()
