"""The run folder: what it was planned for, and the committed shards that markers name."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

import pyarrow as pa

from factory.core.errors import DamageError, MismatchError, MissingError, StoreError
from factory.core.files.new_folder import WORK
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.core.parquet import open_parquet
from factory.data.artefact import Artefact
from factory.data.records import Shard
from factory.data.summary import Maker
from factory.engine.lease import Lease, hold
from factory.engine.run_records import (
    GenerationRecord,
    Marker,
    Quarantine,
    RunRecord,
    SeriesRecord,
    compute_run_id,
    dump_record,
    dump_table,
    dump_worker,
    find_other,
    name_data,
    name_marker,
    name_worker,
    parse_worker,
)

__all__ = ["WORK", "GenerationRecord", "Marker", "RunFolder", "RunRecord", "SeriesRecord"]

LEASE = f"{WORK}/lease.json"
_BUFFER, _ROWS = 1 << 20, 16
"""Bytes of a column that are read, and rows decoded, at a time, where few rows are wanted."""

A = TypeVar("A", bound=Artefact)


class RunFolder:
    """Opens, checks and fills a run folder.

    Args:
        url: local folder or fsspec URL.
        mend: called with one line for each damaged object that can be made again, which is then
            removed and counts as absent; None: such an object is an error.
    """

    def __init__(self, url: str, mend: Callable[[str], None] | None = None) -> None:
        self.files = FileStore(url)
        self.url, self.mend = url, mend
        self._run_id: str | None = None
        self._told: set[str] = set()
        self._lease: Lease | None = None

    @contextlib.contextmanager
    def hold(self, command: str) -> Iterator[Lease]:
        """Keeps other commands from writing into the folder meanwhile; see `store.lease`.

        Raises:
            InputError, HeldError: two could hold it at a time, or another does; nothing is touched.
        """
        with hold(self.files, LEASE, command, self.mend or (lambda line: None)) as lease:
            self._lease = lease
            try:
                yield lease
            finally:
                self._lease = None

    def confirm(self) -> None:
        """Looks whether the folder is still held, where it was.

        Raises:
            RunBrokenError: another command took it over.
        """
        if self._lease is not None:
            self._lease.check()

    # --- what the folder belongs to --------------------------------------------------------------

    def read_run(self) -> RunRecord | None:
        """Returns the run record, or None for a fresh folder, where a run may begin.

        Raises:
            MismatchError: the folder holds something else.
            StoreError: the record is damaged.
        """
        record = self._read_record()
        if record is None and (what := find_other(self.files)):
            raise MismatchError(
                f"{self.url}: not empty and not a run folder (holds {what}): give --out an "
                "empty or new folder"
            )
        return record

    def require_run(self) -> RunRecord:
        """Returns the run record of a run that is there.

        Raises:
            MismatchError: there is none.
            StoreError: the record is damaged.
        """
        record = self._read_record()
        if record is None:
            raise MismatchError(
                f"{self.url}: not a run folder (holds {find_other(self.files) or 'nothing'}): name "
                "one that `factory run` or `factory judge` wrote"
            )
        return record

    def _read_record(self) -> RunRecord | None:
        name = f"{WORK}/run.json"
        if not self.files.exists(name):
            return None
        try:
            record = RunRecord.parse(self.files.read(name))
        except DamageError as error:
            raise DamageError(f"{self.url}/{name}: {error}: copy it back") from error
        except MismatchError as error:
            raise MismatchError(f"{self.url}/{name}: {error}") from error
        self._run_id = compute_run_id(record.content)
        return record

    def clear(self) -> bool:
        """Removes what a run began and left without a commit; returns whether there was any."""
        was_begun = self.files.exists(f"{WORK}/run.json")
        for name in ("run.json", "workers", "shards", "parts", "quarantine", "build", "files.json"):
            self.files.remove(f"{WORK}/{name}")
        return was_begun

    def write_run(self, record: RunRecord) -> None:
        """Writes the run record."""
        self.files.write(f"{WORK}/run.json", record.dump())
        self._run_id = compute_run_id(record.content)

    # --- workers ---------------------------------------------------------------------------------

    def write_worker(self, digest: str, description: Mapping[str, Any]) -> None:
        """Keeps the full description of a worker once: model, terms, filters, libraries, device."""
        try:
            self.read_worker(digest)
        except StoreError:  # not there, or damaged
            self.files.write(name_worker(digest), dump_worker(description))

    def has_worker(self, digest: str) -> bool:
        """Tells whether a worker's description is sound; a damaged one is mended or refused.

        Raises:
            StoreError: it is damaged, and the folder was not opened to be mended.
        """
        name = name_worker(digest)
        if not self.files.exists(name):
            return False
        try:
            parse_worker(self.files.read(name), digest)
        except (DamageError, MismatchError) as error:
            if self.mend is None or isinstance(error, MismatchError):
                self.read_worker(digest)
            elif digest not in self._told:
                self._told.add(digest)
                self.mend(f"{name}: {error}: a worker that is the same writes it again")
            return False
        return True

    def read_worker(self, digest: str) -> Maker:
        """Returns a worker's description.

        Raises:
            StoreError: it is missing, damaged, or not what its name is the digest of.
        """
        name = name_worker(digest)
        try:
            if not self.files.exists(name):
                raise DamageError("missing")
            return parse_worker(self.files.read(name), digest)
        except DamageError as error:
            raise DamageError(
                f"{self.url}/{name}: {error}: bring it back from a copy, or run the same recipe "
                "again on the device and with the libraries that began this folder"
            ) from error
        except MismatchError as error:
            raise MismatchError(f"{self.url}/{name}: {error}") from error

    # --- shards ----------------------------------------------------------------------------------

    def read_marker(self, shard: Shard, round_number: int = 0) -> Marker | None:
        """Returns the marker of a committed shard, or None.

        Raises:
            StoreError: the marker is damaged, or that of another shard, round or run; where the
                folder is opened to be mended it counts as absent instead.
        """
        name = name_marker(shard, round_number)
        marker = self.read(name, Marker)
        if marker is None:
            return None
        run_id = marker.run and self._find_run_id()
        problem = marker.find_misfit(shard, round_number, run_id)
        if not problem:
            return marker
        self._give_up(name, problem)
        return None

    def has_marker(self, shard: Shard) -> bool:
        """Tells whether a shard was committed, sound or not."""
        return self.files.exists(name_marker(shard, 0))

    def _find_run_id(self) -> str | None:
        if self._run_id is None:
            self.read_run()
        return self._run_id

    def _give_up(self, name: str, problem: str) -> None:
        """Removes what is damaged and can be made again.

        Raises:
            StoreError: the folder is not open to be mended.
        """
        if self.mend is None:
            raise DamageError(
                f"{self.url}/{name}: {problem}: run the same recipe into this folder again, which "
                "makes it anew"
            )
        self.mend(f"{name}: {problem}: made again")
        self.files.remove(name)

    def read(self, name: str, kind: type[A]) -> A | None:
        """Returns a record; None where it is not there.

        Raises:
            StoreError: it is damaged; where the folder is opened to be mended it counts as absent.
            MismatchError: a newer version of factory wrote it.
        """
        data = self.files.find(name)
        try:
            return None if data is None else kind.parse(data)
        except DamageError as error:
            self._give_up(name, str(error))
            return None
        except MismatchError as error:
            raise MismatchError(f"{self.url}/{name}: {error}") from error

    def commit(
        self, table: pa.Table, marker: Marker, shard: Shard, check: Callable[[], None] | None = None
    ) -> Marker:
        """Writes the data object under its content hash; calls `check`; writes the marker, last.

        Raises:
            StoreError: nothing counts; what was written is found unnamed and harmless.
        """
        data = dump_table(table)
        digest = hash_bytes(data)
        name = name_data(marker.shard, marker.round, digest)
        self.files.write(f"{WORK}/{name}", data)
        if check is not None:
            check()
        final = marker.model_copy(update={"data": name, "sha256": digest, "bytes": len(data)})
        self.files.write(name_marker(shard, marker.round), dump_record(final))
        return final

    def read_table(
        self,
        marker: Marker,
        columns: Sequence[str] | None = None,
        verify: bool = False,
        without: Sequence[str] = (),
    ) -> pa.Table:
        """Reads a committed shard's table.

        Args:
            marker: which.
            columns: only these, e.g. all but the images; None: all.
            verify: read all bytes and compare their hash with the marker's.
            without: columns that are not read of all.

        Raises:
            StoreError: missing or damaged data; names the remedy.
        """
        name = f"{WORK}/{marker.data}"
        try:
            data = self.files.read(name) if verify else None
            if data is not None and hash_bytes(data) != marker.sha256:
                raise DamageError(f"{name}: its bytes changed")
            opened = self.files.open_parquet(name) if data is None else open_parquet(data, name)
            with opened as file:
                all_others = [each for each in file.schema.names if each not in without]
                return marker.check_rows(file.read(all_others if columns is None else columns))
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
        record = Quarantine(shard=shard.id, round=round_number, error=error)
        self.files.write(f"{WORK}/quarantine/{shard.id}-r{round_number}.json", record.dump())

    def release(self, shard: Shard, round_number: int) -> None:
        """Forgets a quarantine, once the shard was committed."""
        self.files.remove(f"{WORK}/quarantine/{shard.id}-r{round_number}.json")

    def list_quarantined(self) -> tuple[Quarantine, ...]:
        """Returns the quarantine records: shard, round, error."""
        names = self.files.list(f"{WORK}/quarantine")
        found = (
            self.read(f"{WORK}/quarantine/{name}", Quarantine)
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )
        return tuple(each for each in found if each is not None)
