"""Publishes to a folder or object store, through fsspec: the same files, whole and compared."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.core.errors import InputError
from factory.core.files.store import FileStore
from factory.publish.hub.items import CHUNK, Item, hash_stream
from factory.publish.hub.target import Held, Say

HALF = ".part"
"""Ends the name of a file that is not whole yet."""


class FolderTarget:
    """A folder on a disk or in an object store."""

    def __init__(self, url: str, say: Say) -> None:
        """Opens the place, without touching it.

        Raises:
            InputError: nothing here speaks its protocol.
        """
        self._files = FileStore(url)
        self.url, self._say = url, say

    def list_held(self) -> Mapping[str, Held]:
        """Lists the files that are there with their sizes."""
        return {
            name: Held(size)
            for name, size in self._files.list_sizes().items()
            if not name.endswith(HALF)
        }

    def check(self, items: Sequence[Item]) -> None:
        """Refuses to publish a run into itself, or into a folder of it.

        Raises:
            InputError: says so.
        """
        if not self._files.is_local:
            return
        root = Path(self._files.root).resolve()
        for item in items:
            if isinstance(item.source, Path):
                run = item.source.resolve().parent.parent
                if root == run or run in root.parents or root in run.parents:
                    raise InputError(
                        f"{self.url}: holds the run, or lies in it: give another folder"
                    )

    def prepare(self) -> None:
        """Does nothing: folders come with their files."""

    def holds(self, item: Item, held: Held | None) -> bool:
        """Reads a file of the same size, and compares its sha256."""
        if held is None or held.size != item.size:
            return False
        with self._files.open(item.name, "rb") as stream:
            return hash_stream(stream)[1] == item.sha256

    def send(self, items: Sequence[Item], removed: Sequence[str], message: str) -> None:
        """Copies files, each under another name until it is whole."""
        for name in removed:
            self._files.remove(name)
        for item in items:
            # An object store shows an object when it is whole; a disk is shown one.
            name = f"{item.name}{HALF}" if self._files.is_local else item.name
            with item.open() as source, self._files.open(name, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
            if name != item.name:
                self._files.move(name, item.name)

    def count_rows(self, name: str) -> int:
        """Reads the footer of a parquet file."""
        with self._files.open_parquet(name) as table:
            return table.num_rows

    def pin(self) -> str | None:
        """Does nothing: a folder has no versions."""
        return None

    def finish(self) -> str | None:
        """Does nothing: the card that came last is the mark."""
        return None
