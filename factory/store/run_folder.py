"""The run folder: what it was planned for, and the committed shards that markers name."""

import io
import json
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.errors import DamageError, MismatchError, MissingError, StoreError
from factory.fingerprint import diff_values, hash_bytes
from factory.parquet import read_parquet
from factory.plain import write_json
from factory.records import Shard
from factory.store.files import FileStore

WORK = ".factory"
"""Folder below the run folder for all that is not the data set itself."""


_BUFFER = 1 << 20
"""Bytes of a column that are read at a time, where few rows are wanted."""
_ROWS = 16
"""Rows decoded at a time, likewise."""

T = TypeVar("T", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GenerationRecord(_Record):
    """One growth of the run: counts of each series, and requests per shard."""

    counts: dict[str, int]
    shard_size: int


class SeriesRecord(_Record):
    """What a series is called, and how many images it was last asked for."""

    key: str
    label: str
    class_names: tuple[str, ...]
    count: int


class RunRecord(_Record):
    """`run.json`: what the run folder belongs to."""

    version: int = 1
    name: str
    recipe_sha256: str
    content: dict[str, Any]
    recipe: dict[str, Any]
    series: tuple[SeriesRecord, ...]
    generations: tuple[GenerationRecord, ...]


class Marker(_Record):
    """A committed shard, or a further round of it: written last, and what it names exists."""

    version: int = 1
    shard: str
    series: str
    start: int
    stop: int
    round: int = 0
    data: str = Field(description="name of the data object below the work folder")
    sha256: str
    bytes: int
    rows: int
    asked: int
    filled: int
    generated: int
    rejected: dict[str, int] = Field(description="candidates by rejecting filter")
    reasons: dict[str, int] = Field(description="candidates by reason without its numbers")
    starts: dict[int, int] | None = Field(None, description="round > 0: request -> first attempt")
    worker: str = Field(description="digest of the worker description that made it")
    seconds: dict[str, float]


class RunFolder:
    """Opens, checks and fills a run folder."""

    def __init__(self, url: str) -> None:
        self.files = FileStore(url)
        self.url = url

    # --- what the folder belongs to --------------------------------------------------------------

    def read_run(self) -> RunRecord | None:
        """Returns the run record, or None for a fresh folder.

        Raises:
            MismatchError: the folder holds something else.
            StoreError: the record is damaged.
        """
        if self.files.exists(f"{WORK}/run.json"):
            return _parse(
                RunRecord, self.files.read(f"{WORK}/run.json"), f"{self.url}/{WORK}/run.json"
            )
        foreign = [name for name in self.files.list("") if name != WORK]
        if foreign:
            raise MismatchError(
                f"{self.url}: not empty and not a run folder (holds {foreign[0]}): give --out an "
                "empty or new folder"
            )
        return None

    def write_run(self, record: RunRecord) -> None:
        """Writes the run record."""
        self.files.write(f"{WORK}/run.json", _dump(record))

    def check_content(self, record: RunRecord, content: Mapping[str, Any]) -> None:
        """Refuses to continue with other content.

        Raises:
            MismatchError: with a diff of what changed.
        """
        differences = diff_values(record.content, content)
        if differences:
            changed = "\n".join(f"  {name}: {old!r} -> {new!r}" for name, old, new in differences)
            raise MismatchError(
                f"{self.url}: belongs to another recipe; nothing was touched. Changed:\n{changed}\n"
                "Restore these, or use another --out"
            )

    # --- workers ---------------------------------------------------------------------------------

    def write_worker(self, digest: str, description: Mapping[str, Any]) -> None:
        """Keeps the full description of a worker once: model, terms, filters, libraries, device."""
        name = f"{WORK}/workers/{digest}.json"
        if not self.files.exists(name):
            self.files.write(name, write_json(description, sort_keys=True).encode())

    def read_worker(self, digest: str) -> dict[str, Any]:
        """Returns a worker's description."""
        description: dict[str, Any] = json.loads(self.files.read(f"{WORK}/workers/{digest}.json"))
        return description

    # --- shards ----------------------------------------------------------------------------------

    def read_marker(self, shard: Shard, round_number: int = 0) -> Marker | None:
        """Returns the marker of a committed shard, or None.

        Raises:
            StoreError: the marker is damaged.
        """
        name = _name_marker(shard, round_number)
        if not self.files.exists(name):
            return None
        return _parse(Marker, self.files.read(name), f"{self.url}/{name}")

    def commit(self, table: pa.Table, marker: Marker, shard: Shard) -> Marker:
        """Writes the data object under its content hash, then the marker, last.

        Raises:
            StoreError: nothing counts; what was written is found unnamed and harmless.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=256)
        data = buffer.getvalue()
        digest = hash_bytes(data)
        name = f"shards/{marker.shard}-r{marker.round}-{digest[:16]}.parquet"
        self.files.write(f"{WORK}/{name}", data)
        final = marker.model_copy(update={"data": name, "sha256": digest, "bytes": len(data)})
        self.files.write(_name_marker(shard, marker.round), _dump(final))
        return final

    def read_table(
        self, marker: Marker, columns: Sequence[str] | None = None, verify: bool = False
    ) -> pa.Table:
        """Reads a committed shard's table.

        Args:
            marker: which.
            columns: only these, e.g. all but the images.
            verify: read all bytes and compare their hash with the marker's.

        Raises:
            StoreError: missing or damaged data; names the remedy.
        """
        name = f"{WORK}/{marker.data}"
        try:
            if not verify:
                with self.files.open_parquet(name) as table:
                    return table.read(columns)
            data = self.files.read(name)
            if hash_bytes(data) != marker.sha256:
                raise DamageError(f"{name}: its bytes changed")
            return read_parquet(data, columns, name)
        except (DamageError, MissingError) as error:
            raise self._describe_damage(marker, error) from error

    def read_rows(
        self, marker: Marker, sample_ids: Set[str], columns: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Reads a few rows of a committed shard; other rows' images are passed by, not gathered.

        Args:
            marker: which shard.
            sample_ids: of the rows wanted; those that are not here are left out.
            columns: to read, besides `sample_id`.

        Raises:
            StoreError: missing or damaged data; names the remedy.
        """
        found: list[dict[str, Any]] = []
        wanted = ["sample_id", *columns]
        try:
            with self.files.open_parquet(f"{WORK}/{marker.data}", buffer_size=_BUFFER) as table:
                for group in range(len(table.groups)):
                    ids = table.read_group(group, ["sample_id"])["sample_id"]
                    if sample_ids.isdisjoint(ids.to_pylist()):
                        continue
                    for batch in table.iterate_batches(_ROWS, wanted, [group]):
                        names = batch.column("sample_id").to_pylist()
                        places = [i for i, name in enumerate(names) if name in sample_ids]
                        found.extend(batch.take(pa.array(places, pa.int64())).to_pylist())
        except (DamageError, MissingError) as error:
            raise self._describe_damage(marker, error) from error
        return found

    def _describe_damage(self, marker: Marker, error: StoreError) -> DamageError:
        mark = f"{WORK}/shards/{marker.shard}-r{marker.round}.json"
        return DamageError(
            f"{self.url}/{WORK}/{marker.data}: damaged ({error}): remove {mark} and run the same "
            "command again to make it anew"
        )

    # --- quarantine ------------------------------------------------------------------------------

    def quarantine(self, shard: Shard, round_number: int, error: str) -> None:
        """Records that a shard kept failing, with the last error."""
        record = {"shard": shard.id, "round": round_number, "error": error}
        self.files.write(
            f"{WORK}/quarantine/{shard.id}-r{round_number}.json",
            write_json(record).encode(),
        )

    def release(self, shard: Shard, round_number: int) -> None:
        """Forgets a quarantine, once the shard was committed."""
        self.files.remove(f"{WORK}/quarantine/{shard.id}-r{round_number}.json")

    def list_quarantined(self) -> tuple[dict[str, Any], ...]:
        """Returns the quarantine records: shard, round, error."""
        names = self.files.list(f"{WORK}/quarantine")
        return tuple(
            json.loads(self.files.read(f"{WORK}/quarantine/{name}"))
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )


def _name_marker(shard: Shard, round_number: int) -> str:
    return f"{WORK}/shards/{shard.id}-r{round_number}.json"


def _dump(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _parse(kind: type[T], data: bytes, where: str) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(f"{where}: damaged ({error.errors()[0]['msg']}): remove it") from error
