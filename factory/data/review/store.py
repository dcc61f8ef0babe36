"""`ReviewStore`: readings, readers and answers of a run in one SQLite file, durable at once.

Answers are only ever added: the latest of a reader on a case counts, and earlier ones stay.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from factory.core.errors import DamageError, MismatchError, StoreError
from factory.data.review.answers import Answer, Case, Reader, Reading

PLACE = ".factory/review.sqlite"
"""In a run folder; nothing of `.factory` is published."""
VERSION = 1
PATIENCE = 30.0
"""Seconds that a write may wait for that of another process."""

_SCHEMA = """
CREATE TABLE readings (id TEXT PRIMARY KEY, body TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE cases (
  reading TEXT NOT NULL REFERENCES readings, id TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (reading, id)
);
CREATE TABLE pictures (
  reading TEXT NOT NULL, "case" TEXT NOT NULL, side INTEGER NOT NULL, png BLOB NOT NULL,
  PRIMARY KEY (reading, "case", side), FOREIGN KEY (reading, "case") REFERENCES cases
);
CREATE TABLE readers (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL
);
CREATE TABLE answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, reading TEXT NOT NULL,
  "case" TEXT NOT NULL, reader INTEGER NOT NULL REFERENCES readers, at TEXT NOT NULL,
  body TEXT NOT NULL, FOREIGN KEY (reading, "case") REFERENCES cases
);
CREATE INDEX answered ON answers (reading, reader, "case");
"""


class ReviewStore:
    """Keeps what people are shown and what they answer; many threads and processes may write.

    Args:
        folder: run folder, or a copy of a data set; the file is made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PLACE

    def exists(self) -> bool:
        """Whether anybody was shown anything."""
        return self.path.is_file()

    def add_reading(
        self,
        reading: Reading,
        cases: Sequence[Case],
        pictures: Mapping[tuple[str, int], bytes] | None = None,
    ) -> None:
        """Adds a reading, and those of its cases that are not there yet.

        Args:
            reading: what is asked.
            cases: of it.
            pictures: (case, side) -> PNG bytes; for studies, whose images stay as they are.

        Raises:
            StoreError: it cannot be written.
        """
        rows = [(reading.id, case.id, _dump(case.to_json())) for case in cases]
        shown = [(reading.id, *key, png) for key, png in (pictures or {}).items()]
        with self._write() as db:
            put = "INSERT OR IGNORE INTO"
            body = _dump(reading.to_json())
            db.execute(f"{put} readings VALUES (?, ?, ?)", (reading.id, body, _now()))
            db.executemany(f"{put} cases VALUES (?, ?, ?)", rows)
            db.executemany(f"{put} pictures VALUES (?, ?, ?, ?)", shown)

    def list_readings(self) -> tuple[Reading, ...]:
        """Returns all readings, the oldest first."""
        rows = self._ask("SELECT body FROM readings ORDER BY at, rowid")
        return tuple(Reading.model_validate_json(body) for (body,) in rows)

    def list_cases(self, reading: str) -> tuple[Case, ...]:
        """Returns the cases of a reading, by id."""
        rows = self._ask("SELECT body FROM cases WHERE reading = ? ORDER BY id", reading)
        return tuple(Case.model_validate_json(body) for (body,) in rows)

    def read_picture(self, reading: str, case: str, side: int) -> bytes | None:
        """Returns the PNG of a case of a study, or None."""
        rows = self._ask(
            'SELECT png FROM pictures WHERE reading = ? AND "case" = ? AND side = ?',
            *(reading, case, side),
        )
        return rows[0][0] if rows else None

    def enter(self, name: str, role: str) -> Reader:
        """Returns the reader of a name, new or known; the role is that given last.

        Raises:
            StoreError: it cannot be written.
        """
        with self._write() as db:
            db.execute(
                "INSERT INTO readers (name, role) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET role = excluded.role",
                (name, role),
            )
            (number,) = db.execute("SELECT number FROM readers WHERE name = ?", (name,)).fetchone()
        return Reader(number=number, name=name, role=role)

    def list_readers(self) -> tuple[Reader, ...]:
        """Returns all who entered, by number."""
        rows = self._ask("SELECT number, name, role FROM readers ORDER BY number")
        return tuple(Reader(number=number, name=name, role=role) for number, name, role in rows)

    def add_answers(self, reading: str, reader: int, answers: Sequence[Answer]) -> int:
        """Adds answers durably before it returns; one whose key is there is not added again.

        Returns:
            How many were new.

        Raises:
            StoreError: it cannot be written; then none was added.
        """
        rows = [
            (each.key, reading, each.case, reader, _now(), each.model_dump_json(exclude_none=True))
            for each in answers
        ]
        with self._write() as db:
            before = db.total_changes
            db.executemany(
                'INSERT INTO answers (key, reading, "case", reader, at, body) '
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                rows,
            )
            return db.total_changes - before

    def list_answers(self, reading: str, reader: int | None = None) -> dict[int, list[Answer]]:
        """Returns reader -> the answers in force, the latest on each case, oldest first."""
        rows = self._ask(
            "SELECT reader, body FROM answers WHERE number IN (SELECT max(number) FROM answers "
            'WHERE reading = ? GROUP BY reader, "case") ORDER BY number',
            reading,
        )
        found: dict[int, list[Answer]] = {}
        for number, body in rows:
            if reader in (None, number):
                found.setdefault(number, []).append(Answer.model_validate_json(body))
        return found

    def list_kept(self) -> list[tuple[str, int, Answer]]:
        """Returns (reading, reader, answer) of all that was ever answered, oldest first."""
        rows = self._ask("SELECT reading, reader, body FROM answers ORDER BY number")
        return [
            (reading, reader, Answer.model_validate_json(body)) for reading, reader, body in rows
        ]

    def remove_cases(self, keys: Set[str]) -> tuple[int, int]:
        """Removes the cases that show images of these keys, with pictures and answers, for good.

        What was there is overwritten in the file, not only unlinked.

        Returns:
            Cases and answers that were removed.

        Raises:
            StoreError: it cannot be written; then none was removed.
        """
        found = [
            (reading, name)
            for reading, name, body in self._ask("SELECT reading, id, body FROM cases")
            if any(each.key in keys for each in Case.model_validate_json(body).images)
        ]
        answers = 0
        if found:
            with self._write() as db:
                where = 'WHERE reading = ? AND "case" = ?'
                for pair in found:
                    answers += db.execute(f"DELETE FROM answers {where}", pair).rowcount
                    db.execute(f"DELETE FROM pictures {where}", pair)
                db.executemany("DELETE FROM cases WHERE reading = ? AND id = ?", found)
        if self.exists():
            with self._open() as db:
                db.execute("VACUUM")
        return len(found), answers

    def count_kept(self) -> int:
        """Returns how many answers were ever given, changed ones too."""
        return int(self._ask("SELECT count(*) FROM answers")[0][0]) if self.exists() else 0

    def _ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        if not self.exists():
            return []
        with self._open() as db:
            return db.execute(query, values).fetchall()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from error
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            yield db

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # "DEFERRED" as transactions are begun by hand; a full sync before a commit returns.
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA foreign_keys = ON")
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version > VERSION:
                    raise MismatchError(
                        f"{self.path}: version {version} is newer than {VERSION}, which this "
                        "factory reads: install a newer factory"
                    )
                yield db
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self.path}: cannot be used ({error}): free space, or look who else writes there"
            ) from error
        except sqlite3.DatabaseError as error:
            raise DamageError(
                f"{self.path}: damaged ({error}): put a backup in its place"
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
