"""`Dataset`: a finished data set to read: a run folder, a published copy, or one on the Hub."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from factory.core.errors import DamageError, InputError, MismatchError, StoreError
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.core.markdown import split_header
from factory.data.artefact import Artefact
from factory.data.channel_tables import read_rows
from factory.data.folders import FolderKind, tell_kind_of
from factory.data.summary import Summary
from factory.engine.hub_copy import fetch_copy
from factory.engine.notebook import show_dataset
from factory.engine.run_folder import RunFolder
from factory.engine.summary import describe_unfinished, read_recipe, read_summary
from factory.recipe.recipe import Recipe, restore_recipe, select_deciding

DATA, REJECTED, TARS = "data", "rejected", "webdataset"
"""Folders of accepted rows, of the others, and of tars of the accepted ones."""

_BATCH = 64
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


A = TypeVar("A", bound=Artefact)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of a data set; `data_bytes` is its size without compression."""

    name: str
    sha256: str
    size: int
    rows: int
    data_bytes: int

    @property
    def folder(self) -> str:
        """`data` or `rejected`."""
        return self.name.split("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the file that it lies in, its position there, and its columns."""

    file: str
    number: int
    values: Mapping[str, Any]

    @property
    def sample_id(self) -> str | None:
        """Its sample id, where it has one."""
        found = self.values.get("sample_id")
        return None if found is None else str(found)

    @property
    def place(self) -> str:
        """Its position and id, for messages."""
        return f"{self.number} ({self.sample_id})"


class Dataset:
    """Reads what a finished run, or a copy of it, holds; writes nothing.

    Args:
        url: folder or fsspec URL; `open_dataset` looks whether there are rows.
        recipe: known already; None: read when it is asked for.
        summary: likewise.
    """

    def __init__(
        self, url: str, recipe: Recipe | None = None, summary: Summary | None = None
    ) -> None:
        self.url = url
        self.files = FileStore(url)
        if recipe is not None:
            self.recipe = recipe
        if summary is not None:
            self.summary = summary

    def __repr__(self) -> str:
        return f"Dataset({self.url!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: counts, funnel, and the first accepted images."""
        return show_dataset(self)

    def list_tables(self, folder: str) -> tuple[str, ...]:
        """Lists the parquet files of a folder, sorted."""
        return self._list(folder, ".parquet")

    def list_tars(self) -> tuple[str, ...]:
        """Lists the tars, sorted."""
        return self._list(TARS, ".tar")

    def _list(self, folder: str, suffix: str) -> tuple[str, ...]:
        """Lists what a listing shows, and what it does not although the summary names it."""
        listed = {f"{folder}/{name}" for name in self.files.list(folder)}
        found = {name for name in listed if name.endswith(suffix)}
        if not self.files.is_local:
            named = (name for name in self._hashes if name.startswith(f"{folder}/"))
            rest = {name for name in named if name.endswith(suffix)} - found
            found |= {name for name in rest if self.files.exists(name)}
        return tuple(sorted(found))

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        try:
            return self.summary.hashes if self.summary else {}
        except DamageError:
            return {}  # said where it is asked for

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe that it follows, or None where recipe.json is not there.

        Raises:
            StoreError: recipe.json is damaged, or of another version of factory.
        """
        return read_recipe(RunFolder(self.url))

    @cached_property
    def made_with(self) -> Recipe | None:
        """The recipe that its shards were made with last, or None where these are not there.

        Raises:
            StoreError: the run record is damaged.
        """
        if self.kind is not FolderKind.RUN:
            return None
        return restore_recipe(RunFolder(self.url).require_run().recipe)

    @property
    def in_force(self) -> Recipe | None:
        """The recipe that decides now: that of the run, where this has grown since finalizing."""
        made, written = self.made_with, self.recipe
        if made is None or written is None:
            return made or written
        is_same_run = (
            written.conditions == made.conditions
            and written.budget.attempts == made.budget.attempts
        )
        return written if is_same_run else made

    @property
    def is_refiltered(self) -> bool:
        """Whether thresholds differ from those that its shards were made with."""
        if self.made_with is None or self.in_force is None:
            return False
        made, now = (each.model_dump(mode="json") for each in (self.made_with, self.in_force))
        return select_deciding(made) != select_deciding(now)

    @cached_property
    def summary(self) -> Summary | None:
        """The summary of the run, or None where summary.json is not there.

        Raises:
            StoreError: it is damaged.
            MismatchError: a newer version of factory wrote it.
        """
        return read_summary(RunFolder(self.url))

    @cached_property
    def card_header(self) -> dict[str, Any]:
        """The YAML header of README.md; empty where there is none.

        Raises:
            StoreError: it is no readable YAML.
        """
        if not self.files.exists("README.md"):
            return {}
        text = self.files.read("README.md").decode("utf-8", errors="replace")
        try:
            return split_header(text)[0]
        except ValueError as error:
            raise DamageError(f"{self.url}/README.md: {error}") from error

    @property
    def unfinished(self) -> str:
        """Why it is not the whole of what its run makes; empty where it is, or is a copy of it.

        Raises:
            StoreError: damaged records.
        """
        from factory.engine.run import read_status

        summary = self.summary
        missing = 0 if summary is None else summary.missing_shards
        problem = describe_unfinished(summary, missing, summary.candidates if summary else 0)
        if not problem and self.kind is FolderKind.RUN:
            status = read_status(self.url)
            problem = status["unfinished"]
            if not problem and status["quarantined"]:
                problem = f"{len(status['quarantined'])} shards are quarantined"
        return problem

    def require_finished(self) -> tuple[Recipe, Summary]:
        """Returns recipe and summary of what was finalized.

        Raises:
            InputError: it never was.
            StoreError: damaged records.
        """
        if self.summary is None or self.recipe is None:
            raise InputError(f"{self.url}: holds no finalized run: run a recipe into it first")
        return self.recipe, self.summary

    @cached_property
    def kind(self) -> FolderKind:
        """Whether it is a run, with its shards, a copy of one, or a merged set."""
        return tell_kind_of(self.files.exists)

    def measure_files(self) -> tuple[DataFile, ...]:
        """Returns its parquet files, as the summary names them, with sizes and hashes.

        Raises:
            StoreError: a file is missing or damaged.
        """
        hashes = self._hashes
        names = [name for name in sorted(hashes) if name.endswith(".parquet")]
        if not hashes:  # finalized before hashes were kept
            names = [*self.list_tables(DATA), *self.list_tables(REJECTED)]
        found = []
        for name in names:
            with self.files.open_parquet(name) as table:
                rows, data_bytes = table.num_rows, table.data_bytes
            with self.files.open(name, "rb") as stream:
                size = stream.seek(0, 2)
            sha256 = hashes.get(name) or hash_bytes(self.files.read(name))
            found.append(DataFile(name, sha256, size, rows, data_bytes))
        return tuple(found)

    def read_records(self, folder: str, kind: type[A]) -> dict[str, A]:
        """Returns name -> record of each JSON file of a folder.

        Raises:
            InputError: a file that is no such record, or one of a newer version.
        """
        found = {}
        for name in self.files.list(folder):
            if not name.endswith(".json"):
                continue
            try:
                record = kind.parse(self.files.read(f"{folder}/{name}"))
            except (DamageError, MismatchError) as error:
                where = f"{self.url}/{folder}/{name}"
                raise InputError(f"{where}: {error}: write it again, or remove it") from error
            found[name.removesuffix(".json")] = record
        return found

    def read_schema(self, name: str) -> pa.Schema:
        """Returns the schema of a parquet file.

        Raises:
            StoreError: it is damaged.
        """
        with self.files.open_parquet(name) as table:
            return table.schema

    def iterate_rows(
        self, name: str, columns: Sequence[str] | None = None, check_pages: bool = True
    ) -> Iterator[Row]:
        """Yields the rows of a parquet file in order; without `check_pages` changed bytes pass.

        Raises:
            StoreError: it is damaged; what was yielded before is sound.
        """
        with self.files.open_parquet(name, check_pages=check_pages) as table:
            number = 0
            rows = min(_BATCH, max(table.groups, default=1))  # large rows have small groups
            for batch in table.iterate_batches(max(1, rows), columns):
                for values in read_rows(batch):
                    yield Row(name, number, values)
                    number += 1

    def find_row(self, sample_id: str) -> Row:
        """Returns the row of a sample id, among accepted rows first.

        Raises:
            InputError: no such row.
            StoreError: a damaged file.
        """
        for name in (*self.list_tables(DATA), *self.list_tables(REJECTED)):
            for row in self.iterate_rows(name, ["sample_id"]):
                if row.sample_id == sample_id:
                    return self.read_row(name, row.number)
        raise InputError(
            f"{self.url}: no row {sample_id}: sample_id is 32 characters, of {DATA}/ or {REJECTED}/"
        )

    def read_row(self, name: str, number: int) -> Row:
        """Returns one whole row.

        Raises:
            StoreError: a damaged file.
        """
        with self.files.open_parquet(name, check_pages=True) as table:
            start = 0
            for group, rows in enumerate(table.groups):
                if number < start + rows:
                    part = table.read_group(group).slice(number - start, 1)
                    return Row(name, number, read_rows(part)[0])
                start += rows
        raise StoreError(f"{self.url}/{name}: has no row {number}")


def open_dataset(source: str) -> Dataset:
    """Opens a folder, an fsspec URL, or `OWNER/NAME[@REVISION]` of the Hub, fetched to its cache.

    Raises:
        InputError: nothing there, or no such data set on the Hub.
        StoreError: the Hub cannot be reached.
    """
    match = _HUB_ID.fullmatch(source)
    if "://" in source or Path(source).is_dir() or match is None:
        if "://" not in source and not Path(source).is_dir():
            raise InputError(f"{source}: no such folder: give one, a URL, or OWNER/NAME of the Hub")
        return _check(Dataset(source))
    return _check(Dataset(fetch_copy(match.group(1), match.group(2))))


def _check(dataset: Dataset) -> Dataset:
    if not dataset.list_tables(DATA):
        raise InputError(
            f"{dataset.url}: holds no {DATA}/*.parquet: give a finished run, a copy of a published "
            "data set, or its OWNER/NAME on the Hub"
        )
    return dataset
