"""`Dataset`: a finished data set to read: a run folder, a published copy, or one on the Hub."""

import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from factory.core.errors import DamageError, InputError, StoreError
from factory.core.files.store import FileStore
from factory.core.markdown import split_header
from factory.data.summary import Summary
from factory.engine.notebook import SHOWN, show_images, show_summary
from factory.engine.run_folder import WORK, RunFolder
from factory.engine.summary import read_summary
from factory.recipe.recipe import Recipe, restore_recipe

DATA, REJECTED, TARS = "data", "rejected", "webdataset"
"""Folders of accepted rows, of the others, and of tars of the accepted ones."""

PUBLISHED = ("*.json", "README.md", f"{DATA}/*", f"{REJECTED}/*", f"{TARS}/*")
"""What is fetched of a data set on the Hub."""

_BATCH = 64
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


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
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files = FileStore(url)

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
        """The recipe that made it, or None where recipe.json is not there.

        Raises:
            InputError: recipe.json is damaged, or of another version of factory.
        """
        if not self.files.exists("recipe.json"):
            return None
        try:
            return restore_recipe(self.files.read("recipe.json"))
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            raise InputError(f"{self.url}/recipe.json: {field}: {problem['msg']}") from error

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
    def is_run_folder(self) -> bool:
        """Whether the shards that the data set was made of are there too."""
        return self.files.exists(f"{WORK}/run.json")

    def read_schema(self, name: str) -> pa.Schema:
        """Returns the schema of a parquet file.

        Raises:
            StoreError: it is damaged.
        """
        with self.files.open_parquet(name) as table:
            return table.schema

    def iterate_rows(self, name: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Yields the rows of a parquet file in order.

        Raises:
            StoreError: it is damaged; what was yielded before is sound.
        """
        with self.files.open_parquet(name, check_pages=True) as table:
            number = 0
            for batch in table.iterate_batches(_BATCH, columns):
                for values in batch.to_pylist():
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
                    return Row(name, number, part.to_pylist()[0])
                start += rows
        raise StoreError(f"{self.url}/{name}: has no row {number}")


def show_dataset(dataset: Dataset) -> str:
    """Returns HTML with counts, funnel, and the first accepted images.

    Raises:
        StoreError: a damaged file.
    """
    rows = dataset.iterate_rows(dataset.list_tables(DATA)[0])
    images = [
        (row.values["image"]["bytes"], str(row.values.get("class_name") or ""))
        for row in itertools.islice(rows, SHOWN)
    ]
    summary = dataset.summary
    head = f"<p><code>{html.escape(dataset.url)}</code></p>"
    if summary is not None:
        head = show_summary(summary, dataset.url)
    return head + show_images(images)


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
    return _check(Dataset(_fetch(match.group(1), match.group(2))))


def _check(dataset: Dataset) -> Dataset:
    if not dataset.list_tables(DATA):
        raise InputError(
            f"{dataset.url}: holds no {DATA}/*.parquet: give a finished run, a copy of a published "
            "data set, or its OWNER/NAME on the Hub"
        )
    return dataset


def _fetch(name: str, revision: str | None) -> str:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f"{name}@{revision}" if revision else name
    try:
        return snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=list(PUBLISHED)
        )
    except hub.RevisionNotFoundError as error:
        raise InputError(f"{at}: no such revision on the Hub") from error
    except hub.RepositoryNotFoundError as error:
        raise InputError(
            f"{at}: no such folder, and no such data set on the Hub, or a private one: check the "
            "name, or set HF_TOKEN"
        ) from error
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, OSError) as error:
        raise StoreError(
            f"{at}: no such folder, and the Hub cannot be reached ({type(error).__name__}): give a "
            "folder, or go online and unset HF_HUB_OFFLINE"
        ) from error
