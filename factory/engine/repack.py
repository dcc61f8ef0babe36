"""Finalizing, second part: repacks the selected rows into full-size files, each a job of its own.

The driver goes through the decisions and holds those of the files at hand; a worker reads the
shards that a file is made of, checks every image, and writes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from factory.core.errors import InputError, StoreError
from factory.core.hashing import hash_bytes
from factory.data.channel_tables import build_table
from factory.data.features import with_features
from factory.data.writers.parquet import ParquetFiles, fit_rows_per_file
from factory.data.writers.webdataset import TarFiles
from factory.engine.committed import pick_rows
from factory.engine.decided import read_decided
from factory.engine.executors.machines import Machines
from factory.engine.executors.spread import spread_jobs
from factory.engine.finalise import SUMMARY, Selected
from factory.engine.later import Later
from factory.engine.placing import BUILD, put_in_place
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.selection import Decision
from factory.recipe.recipe import Output

DECIDED = (("rejected_by", pa.string()), ("reason", pa.string()), ("status", pa.string()))
"""Columns of rows that were not taken, besides."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one shard, by their places in the order of requests and attempts."""

    markers: tuple[Marker, ...]
    places: tuple[int, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """Files of one kind: accepted rows, or the others.

    Attributes:
        url: run folder.
        folder: of the data set.
        split: that their names begin with.
        schema: of the rows.
        class_names: in the order of the labels.
        total: rows of all files.
        per_file: rows of each, at least.
        with_tars: whether the same rows go into tars.
        later: scores that came after the run.
    """

    url: str
    folder: str
    split: str
    schema: pa.Schema
    class_names: tuple[str, ...]
    total: int
    per_file: int
    with_tars: bool = False
    later: Later = field(default_factory=Later)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to write, and the tar of the same rows: the parts are in order."""

    kind: Kind
    number: int
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Written:
    """What was written: rows, and sha256 and bytes of each file by its name in the data set."""

    folder: str = ""
    rows: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


def write_dataset(
    selected: Selected, output: Output, schema: pa.Schema, machines: Machines
) -> dict[str, Any]:
    """Repacks the selected rows into `data/`, `rejected/` and `webdataset/`.

    Built aside and moved into place when whole; every image's hash and the counts of the survey are
    checked on the way. A job that dies is done again; so is all, where
    this process dies: the files are the same whoever writes them.

    Returns:
        Row counts, and sha256 and bytes of each file by its name.

    Raises:
        StoreError: damaged images, or rows that are missing.
        InputError: a candidate to accept whose image was not kept.
    """
    folder, survey = selected.folder, selected.survey
    folder.files.remove(BUILD)
    more = pa.schema([*schema, *(pa.field(*each) for each in DECIDED)], schema.metadata)
    names, per_file = selected.plan.class_names, output.rows_per_file
    tars = "webdataset" in output.formats
    kept = Kind(folder.url, "data", "train", schema, names, survey.accepted, per_file, tars)
    more = with_features(more, names)
    others = Kind(folder.url, "rejected", "rejected", more, names, survey.others, per_file)
    kept, others = (replace(each, later=selected.policy.later) for each in (kept, others))
    rows = dict.fromkeys((kept.folder, others.folder), 0)
    sha256: dict[str, str] = {}
    sizes: dict[str, int] = {}
    jobs = _cut_jobs(selected, (kept, others))
    for written in spread_jobs(machines, repack, jobs):
        rows[written.folder] += written.rows
        sha256 |= written.sha256
        sizes |= written.bytes
    if rows != {kept.folder: survey.accepted, others.folder: survey.others}:
        raise StoreError(f"{folder.url}: {rows} rows written, {survey.accepted} accepted")
    folder.confirm()
    put_in_place(folder.files, SUMMARY, [f"{BUILD}/{name}" for name in sha256])
    folder.files.remove(BUILD)
    return {
        "rows": rows[kept.folder],
        "rejected_rows": rows[others.folder],
        "tars": sum(name.startswith("webdataset/") for name in sha256),
        "sha256": _order(sha256),
        "bytes": _order(sizes),
    }


def _order(named: dict[str, Any]) -> dict[str, Any]:
    """Returns what is named by files in the order of data, rejected and tars."""
    return dict(sorted(named.items()))


def _cut_jobs(selected: Selected, kinds: tuple[Kind, Kind]) -> Iterator[Job]:
    """Yields the jobs of all files, one after the other."""
    kept, others = (_Cut(kind) for kind in kinds)
    for decided in selected.survey.decided:
        markers = read_decided(selected.folder, decided)
        taken = [each.status == "accepted" for each in decided.decisions]
        for cut, wanted in ((kept, True), (others, False)):
            places = [place for place, is_taken in enumerate(taken) if is_taken == wanted]
            yield from cut.add(markers, places, decided.decisions)
    yield from kept.close()
    yield from others.close()


class _Cut:
    """Cuts rows that come shard by shard into files."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.number = kind, 0
        self.parts: list[Part] = []
        self.per_file = self.room = fit_rows_per_file(kind.total, kind.per_file)

    def add(
        self, markers: tuple[Marker, ...], places: list[int], decisions: Sequence[Decision]
    ) -> Iterator[Job]:
        while places:
            now, places = places[: self.room], places[self.room :]
            decided = tuple(decisions[place] for place in now)
            self.parts.append(Part(markers, tuple(now), decided))
            self.room -= len(now)
            if not self.room:
                yield self._end()

    def close(self) -> Iterator[Job]:
        """Yields the last job; an empty set still gets one file, so that its schema is known."""
        if self.parts or not self.number:
            yield self._end()

    def _end(self) -> Job:
        job = Job(self.kind, self.number, tuple(self.parts))
        self.number, self.parts, self.room = self.number + 1, [], self.per_file
        return job


def repack(job: Job) -> Written:
    """Writes the files of a job; done again it writes the same.

    Raises:
        StoreError: damaged data.
        InputError: a candidate to accept whose image was not kept.
    """
    kind = job.kind
    folder = RunFolder(kind.url)
    where = f"{BUILD}/{kind.folder}"
    table = ParquetFiles(
        folder.files, where, kind.split, kind.schema, kind.total, kind.per_file, job.number
    )
    tars = TarFiles(
        folder.files, f"{BUILD}/webdataset", kind.split, table.per_file, first=job.number
    )
    with table, tars:
        for part in job.parts:
            rows = _read_part(folder, kind, part)
            table.write(build_table(rows, kind.schema))
            if kind.with_tars:
                tars.write({name: row[name] for name in kind.schema.names} for row in rows)
    hashes, sizes = {**table.hashes, **tars.hashes}, {**table.sizes, **tars.sizes}
    return Written(
        kind.folder,
        table.rows,
        {name.removeprefix(f"{BUILD}/"): sha for name, sha in hashes.items()},
        {name.removeprefix(f"{BUILD}/"): size for name, size in sizes.items()},
    )


def _read_part(folder: RunFolder, kind: Kind, part: Part) -> list[dict[str, Any]]:
    labels = {name: label for label, name in enumerate(kind.class_names)}
    chosen = pick_rows(folder, part.markers, part.places, kind.later)
    for row, decision in zip(chosen, part.decisions, strict=True):
        row["label"] = labels.get(row["class_name"])
        row["status"] = decision.status
        row["rejected_by"], row["reason"] = decision.rejected_by, decision.reason
        if decision.status == "accepted":
            _check_image(row)
    return chosen


def _check_image(row: dict[str, Any]) -> None:
    name, data = row["sample_id"], row["image"]["bytes"]
    if data is None:
        raise InputError(
            f"{name}: would be accepted now, but its image was not kept (output.keep_rejected: "
            "scores): choose thresholds that accept no more than before"
        )
    if hash_bytes(data) != row["image_sha256"]:
        raise StoreError(f"{name}: the image does not have the hash that was recorded")
