"""Which rows of a run a patient's images touched: found in all that is committed."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.core.errors import DamageError, MismatchError, MissingError
from factory.core.files.new_folder import WORK
from factory.core.parquet import read_parquet
from factory.data.provenance import Origin, read_origin
from factory.data.records import Shard
from factory.engine.committed import read_markers
from factory.engine.parts import PARTS, PartMarker
from factory.engine.plan import Outline
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import Marker, name_marker

COLUMNS = ("sample_id", "accepted", "reference_sha256", "provenance")
SHARDS = f"{WORK}/shards"
_END = "_group_sha256"

Matches = Callable[[Iterable[str]], bool]
"""Whether hashes of patients or slides are of one that is asked for."""


@dataclass(frozen=True, slots=True)
class Round:
    """A committed round of a shard."""

    shard: Shard
    marker: Marker


@dataclass(slots=True)
class Found:
    """What was found of patients in a run folder.

    Attributes:
        rounds: of shards that hold rows of theirs.
        rows: their rows, over all shards.
        accepted: of these, those that the filters accepted.
        by: what touched the rows (`reference`, `shots`, `stain` ...) -> how many.
        kept: rows that are not theirs.
        untold: of these, rows of which something real tells no patient or slide.
        parts: names of the records of unfinished shards' parts that hold rows of theirs.
        groups: hashes of those of them who were found.
        sample_ids: of their rows.
        hashes: of files and pixels of their images, as their rows tell.
    """

    rounds: list[Round] = field(default_factory=list)
    rows: int = 0
    accepted: int = 0
    by: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    untold: int = 0
    parts: list[str] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
    sample_ids: set[str] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)

    def book(self, row: Mapping[str, Any], matches: Matches, where: str) -> bool:
        """Counts a row; returns whether it is theirs."""
        origin = read_origin(row, where)
        told = list_told(origin)
        by = [name for name, groups in told.items() if matches(groups)]
        if not by:
            self.kept += 1
            self.untold += _is_untold(origin, told)
            return False
        self.rows += 1
        self.accepted += bool(row["accepted"])
        self.by.update(by)
        self.groups |= {one for name in by for one in told[name] if matches([one])}
        self.sample_ids.add(row["sample_id"])
        self.hashes |= _list_hashes(row, origin, told, matches)
        return True


def list_told(origin: Origin) -> dict[str, tuple[str, ...]]:
    """Returns what a row comes from -> hashes of the patients or slides that this comes from.

    An image that was only judged tells its own among its notes.
    """
    told = {**(origin.model_extra or {}), f"reference{_END}": origin.reference_group_sha256}
    notes = told.get("notes")
    if isinstance(notes, dict) and isinstance(notes.get("group_sha256"), str):
        told[f"image{_END}"] = notes["group_sha256"]
    named = {name.removesuffix(_END): told[name] for name in told if name.endswith(_END)}
    lists = {k: v if isinstance(v, list | tuple) else [v] for k, v in named.items()}
    known = {name: tuple(str(one) for one in each if one) for name, each in lists.items()}
    return {name: groups for name, groups in known.items() if groups}


def _is_untold(origin: Origin, told: Mapping[str, Sequence[str]]) -> bool:
    """Whether something real that a row comes from tells no patient, though other things may.

    A mask beside an image is of that image, and need not tell it again.
    """
    extra = origin.model_extra or {}
    parts = {"domain", "embedding", "vector"} & (extra.get("condition") or {}).keys()
    known = {
        "reference": origin.reference_pixels_sha256,
        "shots": origin.shots,
        "stain": extra.get("stain_pixels_sha256"),
    }
    parts |= {name for name, value in known.items() if value}
    return bool(parts - told.keys()) or (not told and bool(origin.sources))


def _list_hashes(
    row: Mapping[str, Any], origin: Origin, told: Mapping[str, Sequence[str]], matches: Matches
) -> set[str]:
    """Returns the hashes of images that are surely theirs: where a row tells of several, fewer."""
    everyone = {group for groups in told.values() for group in groups}
    if all(matches([group]) for group in everyone):
        own = {*origin.sources, row.get("reference_sha256")}
    elif matches(told.get("reference", ())):
        own = {origin.reference_pixels_sha256, row.get("reference_sha256")}
    else:
        own = set()
    return {str(each) for each in own if each}


def find_touched(folder: RunFolder, plan: Outline, matches: Matches) -> Found:
    """Looks through all that is committed, and through parts of what is not.

    Args:
        folder: run folder.
        plan: its series and shards.
        matches: whom to look for.

    Raises:
        StoreError: a shard is damaged; nothing can be told of it.
    """
    found = Found()
    for one in iterate_rounds(folder, plan):
        table = folder.read_table(one.marker, COLUMNS)
        where = f"{folder.url}/{WORK}/{one.marker.data}"
        theirs = [found.book(row, matches, where) for row in table.to_pylist()]
        if any(theirs):
            found.rounds.append(one)
    for name in _list_records(folder, PARTS):
        rows = read_part(folder, name)
        if rows is None or any(matches(list_groups(row, name)) for row in rows):
            found.parts.append(name)
    return found


def list_groups(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns the hashes of all patients or slides that a row tells of.

    Raises:
        DamageError: its provenance is no JSON object; names `where`.
    """
    told = list_told(read_origin(row, where))
    return tuple(group for groups in told.values() for group in groups)


def iterate_rounds(folder: RunFolder, plan: Outline) -> Iterator[Round]:
    """Yields every committed round of every shard, of the plan and what lies there besides.

    Raises:
        StoreError: a marker is damaged.
    """
    known: set[str] = set()
    for shard in plan.iterate_shards():
        for number, marker in enumerate(read_markers(folder, shard)):
            known.add(name_marker(shard, number))
            yield Round(shard, marker)
    for name in _list_records(folder, SHARDS):
        stray = None if name in known else folder.read(name, Marker)
        if stray is not None:  # of a plan that was begun anew
            yield Round(Shard(stray.series, stray.start, stray.stop), stray)


def read_part(folder: RunFolder, name: str) -> list[dict[str, Any]] | None:
    """Returns `provenance` of a part's rows; None where it is damaged, so that nobody can tell."""
    try:
        marker = PartMarker.parse(folder.files.read(name))
        data = folder.files.read(marker.data)
        rows: list[dict[str, Any]] = read_parquet(data, ["provenance"], marker.data).to_pylist()
    except (DamageError, MismatchError, MissingError):
        return None
    return rows


def _list_records(folder: RunFolder, place: str) -> list[str]:
    names = folder.files.list(place)
    return [f"{place}/{n}" for n in names if n.endswith(".json") and not n.startswith(".")]
