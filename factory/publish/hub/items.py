"""The files that are published of a finished run, and the bytes that are sent of each."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from factory.core.errors import InputError, StoreError
from factory.core.files.streams import StoreStream
from factory.core.hashing import compute_digest
from factory.core.parquet import open_parquet
from factory.data.writers import parquet
from factory.publish.hub.paths import COLUMNS, has_places, rewrite_parquet

CARD = "README.md"
"""Sent last, so that what is half sent does not look whole."""
DATA_FOLDERS = ("data", "rejected", "webdataset")
OWN_FOLDERS = (*DATA_FOLDERS, "evaluation")
"""Folders that are the data set's alone: other files in them, at the target, are stale."""
DOCUMENT_FOLDERS = {"assets": ".png", "evaluation": ".json"}
"""Folder -> how the names of its documents end."""
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """A file to publish.

    Attributes:
        name: path in the published data set.
        size: bytes that are sent.
        sha256: of these bytes.
        source: the file of the run, or what is sent itself.
        rows: of a parquet file.
        is_rewritten: a parquet file whose rows name places of this machine: it is written again
            without them whenever it is sent.
    """

    name: str
    size: int
    sha256: str
    source: Path | bytes
    rows: int | None = None
    is_rewritten: bool = False

    @property
    def is_data(self) -> bool:
        """Whether it holds rows, and not what is said about them."""
        return self.name.split("/", 1)[0] in DATA_FOLDERS

    def describe(self) -> dict[str, Any]:
        """Returns name, size, hash and rows as plain data."""
        rows = {} if self.rows is None else {"rows": self.rows}
        return {"path": self.name, "size": self.size, "sha256": self.sha256, **rows}

    @contextmanager
    def materialize(self) -> Iterator[Path | bytes]:
        """Yields the bytes that are sent: a file, or the content itself."""
        if isinstance(self.source, bytes) or not self.is_rewritten:
            yield self.source
            return
        with TemporaryDirectory(prefix="factory-publish-") as folder:
            path = Path(folder) / self.source.name
            with path.open("wb") as target:
                rewrite_parquet(self.source, target)
            yield path

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yields the bytes that are sent, as a stream."""
        with self.materialize() as found:
            stream = io.BytesIO(found) if isinstance(found, bytes) else found.open("rb")
            with stream:
                yield stream


def list_data(folder: Path, hashes: Mapping[str, str], with_tars: bool) -> tuple[Item, ...]:
    """Returns the parquet files of a run, and its tars where they are wanted.

    Args:
        folder: a finished run.
        hashes: sha256 of each of its data files, as written when it was finalized.
        with_tars: whether tars are published too.

    Raises:
        StoreError: a file's bytes are not those that were written.
        InputError: tars name places of this machine.
    """
    parquet = [name for name in sorted(hashes) if name.endswith(".parquet")]
    items = [_make_parquet_item(folder, name, hashes[name]) for name in parquet]
    tars = [name for name in sorted(hashes) if name.endswith(".tar") and with_tars]
    if tars and any(item.is_rewritten for item in items):
        raise InputError(
            f"{folder}: rows name files of this machine by their whole path; that is cut in "
            "parquet files but cannot be in tars: leave --with-tars out"
        )
    for name in tars:
        size = _check_hash(folder, name, hashes[name])
        items.append(Item(name, size, hashes[name], folder / name))
    return tuple(items)


def check_folders(items: Iterable[Item], where: str) -> None:
    """Refuses more files in one folder than the Hub takes.

    Raises:
        InputError: says what to do.
    """
    counts = Counter(item.name.rpartition("/")[0] for item in items)
    for folder, count in counts.items():
        if count > parquet.MAX_FILES:
            raise InputError(
                f"{where}/{folder}: {count:,} files, and the Hub takes {parquet.MAX_FILES:,} in a "
                "folder: remove summary.json and run the same command into it again, which writes "
                "fewer and larger files"
            )


def list_documents(documents: Mapping[str, bytes]) -> tuple[Item, ...]:
    """Returns what is said about the data as files, the card last."""
    names = sorted(documents, key=lambda name: (name == CARD, name))
    return tuple(
        Item(name, *hash_stream(io.BytesIO(documents[name])), documents[name]) for name in names
    )


def compute_content_digest(items: Iterable[Item]) -> str:
    """Returns one hash for the names and bytes of all files."""
    return compute_digest("published", sorted([item.name, item.sha256] for item in items))


def hash_stream(stream: BinaryIO | StoreStream) -> tuple[int, str]:
    """Returns size in bytes and sha256 of a stream."""
    digest, size = hashlib.sha256(), 0
    while block := stream.read(CHUNK):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def compute_git_hash(item: Item) -> str:
    """Returns git's hash of a file, by which the Hub knows the small ones."""
    digest = hashlib.sha1(b"blob %d\0" % item.size, usedforsecurity=False)
    with item.open() as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _make_parquet_item(folder: Path, name: str, expected: str) -> Item:
    path = folder / name
    size = _check_hash(folder, name, expected)
    with open_parquet(path) as table:
        rows = table.num_rows
        columns = [column for column in COLUMNS if column in table.schema.names]
        groups = (table.read_group(place, columns) for place in range(len(table.groups)))
        is_rewritten = any(has_places(group) for group in groups)
    if not is_rewritten:
        return Item(name, size, expected, path, rows)
    sink = _HashSink()
    rewrite_parquet(path, sink)
    return Item(name, sink.size, sink.digest.hexdigest(), path, rows, is_rewritten=True)


def _check_hash(folder: Path, name: str, expected: str) -> int:
    """Returns the size of a file that has the hash that it was written with."""
    with (folder / name).open("rb") as stream:
        size, sha256 = hash_stream(stream)
    if sha256 != expected:
        raise StoreError(
            f"{folder / name}: damaged: sha256 {sha256}, written as {expected}: remove "
            "summary.json and run the recipe again into this folder, which writes the data set anew"
        )
    return size


class _HashSink(io.RawIOBase):
    """Hashes what is written to it and keeps none of it."""

    def __init__(self) -> None:
        self.digest, self.size = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self.size += view.nbytes
        return view.nbytes
