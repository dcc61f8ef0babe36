"""Rows of a table as a series of requests: each row a condition, read one at a time."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from factory.core.errors import InputError, SourceError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.data.groups import find_group, hash_group, list_telling
from factory.data.images.image import read_name
from factory.data.records import Condition, Request
from factory.data.rows import Rows
from factory.data.streams import Stream

Scanned = tuple[tuple[str, ...], tuple[str, ...]]
"""Keys of all rows, and their classes."""
Part = tuple[type[Stream], Any]
"""A stream, and how columns give it."""


class ConditionTable:
    """The conditions of a table's rows, read one at a time.

    Args:
        rows: of the table.
        parts: the streams of a row, the kind's own first.
        group_column: with the patient or slide; without, rows of a run tell it themselves.
    """

    def __init__(self, rows: Rows, parts: Sequence[Part], group_column: str | None = None) -> None:
        self.rows, self.parts, self.group_column = rows, tuple(parts), group_column
        named = (name for _, cells in self.parts for name in cells.named)
        more = list_telling(rows.header) if group_column is None else (group_column,)
        self.columns = tuple(dict.fromkeys((*named, *more)))
        self._scanned: Scanned | None = None
        for name in self.columns:
            if name not in rows.header:
                raise SourceError(f"{rows.path}: no column {name!r}: {advise(name, rows.header)}")

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Condition:
        """Returns what a row asks for.

        Raises:
            SourceError: it does not say so; names its place and column.
        """
        row, folder = self.rows.read(index, self.columns), self.rows.path.parent
        place = self.rows.place(index)
        streams: list[Any] = []
        for stream, cells in self.parts:
            try:
                streams.append(stream.read_cells(row, cells, folder))
            except InputError as error:
                alone = f"{cells.named[0]}: " if len(cells.named) == 1 else ""
                raise SourceError(f"{place}: {alone}{error}") from error
        group = self.find_group(index, row)
        if group is not None:
            streams[0] = replace(streams[0], group_sha256=group)
        return Condition(None, None, *streams)

    def find_group(self, index: int, row: Mapping[str, Any]) -> str | None:
        """Returns the hash of the patient or slide of a row; None where nothing tells it.

        Raises:
            SourceError: it is told, and cannot be read.
        """
        place = self.rows.place(index)
        if self.group_column is None:
            return find_group(row, place)
        return hash_group(read_name(row[self.group_column], place, "patient or slide"))

    def read_all(self) -> Iterator[Condition | SourceError]:
        """Yields what every row asks for, or why it does not say so; then `scanned` is known."""
        found: list[str] = []
        names: dict[str, None] = {}
        for index in range(len(self)):
            try:
                condition = self.read(index)
            except SourceError as error:
                yield error
                continue
            found.append(condition.key)
            if condition.class_name is not None:
                names[condition.class_name] = None
            yield condition
        if len(found) == len(self):
            self._scanned = tuple(found), tuple(names)

    @property
    def scanned(self) -> Scanned:
        """The condition key of every row, and the classes in order of appearance.

        Reads all rows, once; raises as `read`.
        """
        if self._scanned is None:
            for each in self.read_all():
                if isinstance(each, SourceError):
                    raise each
        return self._scanned or ((), ())

    @property
    def keys(self) -> tuple[str, ...]:
        """The condition key of every row; raises as `read`."""
        return self.scanned[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the rows, in order of appearance; raises as `read`."""
        return self.scanned[1]

    @cached_property
    def repeats(self) -> tuple[Mapping[str, int], Mapping[int, int]]:
        """Key -> rows that ask for the same, where several do; row -> how many did before it."""
        counts, seen = Counter(self.keys), Counter[str]()
        ranks: dict[int, int] = {}
        for row, key in enumerate(self.keys):
            if counts[key] > 1:
                ranks[row] = seen[key]
                seen[key] += 1
        return {key: count for key, count in counts.items() if count > 1}, ranks


@dataclass(frozen=True)
class TableSeries:
    """The rows of a table in turn, then again with the next ordinals.

    Rows that ask for the same get an ordinal each, so that they give different images.
    """

    kind: str
    table: ConditionTable
    count: int

    @cached_property
    def key(self) -> str:
        """Identity of the series: its rows in order."""
        return compute_digest("series", {"kind": self.kind, "rows": self.table.keys})[:16]

    @property
    def label(self) -> str:
        """The kind, and the name of the file."""
        return f"{self.kind} {self.table.rows.path.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the rows."""
        return self.table.class_names

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.table))
        counts, ranks = self.table.repeats
        ordinal = cycle * counts.get(self.table.keys[row], 1) + ranks.get(row, 0)
        return Request(self.key, index, self.table.read(row), ordinal)
