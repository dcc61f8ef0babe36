"""A mapping that spills to disk: memory holds a part of it, however many keys there are."""

import json
import sqlite3
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar

from factory.core.errors import StoreError

ValueT = TypeVar("ValueT")
_CACHE_KIB = 16 * 1024
"""Of one mapping, in memory."""


class DiskMap(MutableMapping[str, ValueT], Generic[ValueT]):
    """Texts to what JSON can hold, in a nameless database of SQLite that goes with the process.

    Keys come in the order of their bytes, and values as JSON gives them back: a tuple as a list.
    Change nothing while it is iterated. It spills to SQLITE_TMPDIR, else TMPDIR; where that cannot
    be written, every use raises StoreError.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._table.execute("CREATE TABLE map (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        self._table.execute("BEGIN")  # one transaction, never ended: none of it outlives us

    def __getitem__(self, key: str) -> ValueT:
        """Returns a value; raises KeyError."""
        found = self._run("SELECT value FROM map WHERE key = ?", key).fetchone()
        if found is None:
            raise KeyError(key)
        value: ValueT = json.loads(found[0])
        return value

    def __setitem__(self, key: str, value: ValueT) -> None:
        self._run("INSERT OR REPLACE INTO map VALUES (?, ?)", key, json.dumps(value))

    def __delitem__(self, key: str) -> None:
        if not self._run("DELETE FROM map WHERE key = ?", key).rowcount:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        return self._run("SELECT 1 FROM map WHERE key = ?", key).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._run("SELECT key FROM map ORDER BY key"):
            yield key

    def __len__(self) -> int:
        count: int = self._run("SELECT count(*) FROM map").fetchone()[0]
        return count

    def __bool__(self) -> bool:
        return self._run("SELECT 1 FROM map LIMIT 1").fetchone() is not None

    def count_up(self, key: str) -> int:
        """Adds one to a number, which begins at none, and returns it."""
        text = "INSERT INTO map VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        return int(self._run(f"{text} RETURNING value", key).fetchone()[0])

    def list_lacking(self, other: "DiskMap[Any]") -> Iterator[str]:
        """Yields the keys that another mapping lacks, in order."""
        return (key for key in self if key not in other)

    def _run(self, text: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._table.execute(text, values)
        except sqlite3.OperationalError as error:
            message = f"temporary files (SQLITE_TMPDIR, else TMPDIR): {error}: free space there"
            raise StoreError(message) from error
