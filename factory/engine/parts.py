"""Parts of a shard that is still being filled: a kill loses what came after the last of them.

A part is committed as a shard is, its marker last. It is no result: a worker that takes up the
shard walks through the same tries, and takes from parts what was judged instead of making it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from factory.core.errors import DamageError, MismatchError, MissingError
from factory.core.files.new_folder import WORK
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.core.parquet import read_parquet
from factory.data.artefact import Artefact
from factory.engine.run_records import dump_record, dump_table

PARTS = f"{WORK}/parts"
PART_SECONDS = 60.0
"""Seconds of work after which a part is committed, at the end of a batch."""

Row = dict[str, Any]
Try = tuple[int, int]
"""Index of a request, and attempt."""


class PartMarker(Artefact):
    """A committed part: what it belongs to, and the object that holds its rows."""

    run: str
    worker: str
    shard: str
    round: int
    number: int = 0
    data: str = ""
    sha256: str = ""
    rows: int = 0
    seconds: dict[str, float] = Field({})


class Parts:
    """The parts of one round of a shard: those that are there, and those that are added.

    Args:
        files: run folder.
        owner: what each part must belong to: run, worker, shard and round.
        schema: of the shard's rows.

    Attributes:
        notes: what is wrong with parts that are passed over.
        seconds: of work that the parts took.
    """

    def __init__(self, files: FileStore, owner: PartMarker, schema: pa.Schema) -> None:
        self.files, self.owner, self.schema = files, owner, schema
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self._known: dict[Try, Row] = {}
        self._unsaved: list[Row] = []
        self._count = 0
        while self.files.exists(self._name(self._count)):
            self._read(self._name(self._count))
            self._count += 1
        self._saved_at = time.monotonic()
        self._saved_seconds: Mapping[str, float] = dict(self.seconds)

    def recall(self, index: int, attempt: int) -> Row | None:
        """Returns the row of a try, where a part holds it."""
        return self._known.get((index, attempt))

    def add(self, rows: Sequence[Row]) -> int:
        """Takes what was judged, to be saved with the next part; returns how many rows are new."""
        new = [row for row in rows if _name_try(row) not in self._known]
        self._unsaved.extend(new)
        return len(new)

    def save_if_due(self, seconds: Mapping[str, float]) -> None:
        """Commits a part where the last commit is long ago.

        Args:
            seconds: of work on the shard so far.

        Raises:
            StoreError: it cannot be written.
        """
        if time.monotonic() - self._saved_at >= PART_SECONDS:
            self.save(seconds)

    def save(self, seconds: Mapping[str, float]) -> None:
        """Commits a part of what is not in one yet; see `save_if_due`."""
        if not self._unsaved:
            return
        known = dict(seconds)
        table = pa.Table.from_pylist(self._unsaved, schema=self.schema)
        data = dump_table(table)
        digest, name = hash_bytes(data), self._name(self._count)
        marker = self.owner.model_copy(
            update={
                "number": self._count,
                "data": name.replace(".json", f"-{digest[:16]}.parquet"),
                "sha256": digest,
                "rows": len(table),
                "seconds": {
                    key: round(value - self._saved_seconds.get(key, 0.0), 4)
                    for key, value in sorted(known.items())
                },
            }
        )
        self.files.write(marker.data, data)
        self.files.write(name, dump_record(marker))
        self._count += 1
        self._unsaved, self._saved_seconds = [], known
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Removes all parts, once the shard is committed whole."""
        for number in range(self._count):
            name = self._name(number)
            try:
                marker = PartMarker.parse(self.files.read(name))
                self.files.remove(marker.data)
            except (MissingError, DamageError, MismatchError):
                pass
            self.files.remove(name)

    def _name(self, number: int) -> str:
        return f"{PARTS}/{self.owner.shard}-r{self.owner.round}-p{number:04d}.json"

    def _read(self, name: str) -> None:
        try:
            marker = PartMarker.parse(self.files.read(name))
            self._check(marker, name)
            data = self.files.read(marker.data)
            if hash_bytes(data) != marker.sha256:
                raise DamageError("its bytes changed")
            rows = read_parquet(data, self.schema.names, marker.data).to_pylist()
        except (DamageError, MismatchError, MissingError) as error:
            self.notes.append(f"{name}: passed over ({error}): made again")
        else:
            self._known.update((_name_try(row), row) for row in rows)
            for key, value in marker.seconds.items():
                self.seconds[key] = self.seconds.get(key, 0.0) + value

    def _check(self, marker: PartMarker, name: str) -> None:
        for field in ("run", "worker", "shard", "round"):
            found, wanted = getattr(marker, field), getattr(self.owner, field)
            if found != wanted:
                raise DamageError(f"{field} is {found!r}, not {wanted!r}")
        if marker.data != name.replace(".json", f"-{marker.sha256[:16]}.parquet"):
            raise DamageError(f"data is {marker.data!r}")


def _name_try(row: Row) -> Try:
    return row["index"], row["attempt"]
