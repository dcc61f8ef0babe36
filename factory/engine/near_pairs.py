"""Near-duplicate pairs of large sets of descriptors, at a cost that grows with their size.

Up to EXACT rows of a series all pairs are compared, spared by a bound. Beyond, those that share a
bucket of hashes. Both are jobs for any worker; what they found is settled here, in one order.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from factory.core.files.borrowed import borrow, lend
from factory.engine.dedup import find_near
from factory.engine.executors import choose_executor
from factory.engine.executors.machines import Machines
from factory.engine.executors.spread import spread_jobs
from factory.engine.near_files import CHUNK, NAMES, DescriptorFile, write_hashed
from factory.engine.near_hashes import (
    TABLES,
    Buckets,
    GroupFound,
    GroupJob,
    Rows,
    count_groups,
    count_taken,
)

EXACT = 1 << 15
"""Rows up to which all pairs are compared; of more rows, the first so many."""
_BLOCK = 1024
_HASHED = 8 * CHUNK
"""Rows whose hashes are written in one go, beside what is read meanwhile."""
_FIRST = "first"
"""Folder of what is lent of a series while its file still grows."""


@dataclass(slots=True)
class NearPairs:
    """Near-duplicates among the rows of a file, as far as they were looked for.

    A row that repeats an earlier one counts no more as one that others may repeat: so many images
    that are all alike cost no more than others.

    Attributes:
        earlier: row -> earlier rows that it nearly repeats.
        is_checked: (N,) bool; of any two rows where this is true it is known whether they are near.
        key: of the series.
        url: folder where workers find the file; "": where it lies.
        compared: pairs that were compared, by the bound or in full.
    """

    rows: DescriptorFile
    max_similarity: float
    key: str = ""
    url: str = ""
    earlier: dict[int, list[int]] = field(default_factory=dict)
    is_checked: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    compared: int = 0
    _buckets: Buckets | None = None

    def begin(self, lent: str) -> "FirstJob":
        """Returns the job of the first rows, of those that are there; lends them below a URL."""
        self.url = url = f"{lent}/{self.key}" if lent else str(self.rows.path.parent)
        if lent:
            url = f"{self.url}/{_FIRST}"
            lend([self.rows.path], url)
        return FirstJob(self.key, url, min(self.rows.count, EXACT), self.max_similarity)

    def compare_first(self) -> None:
        """Compares all pairs of the first EXACT rows."""
        self.is_checked = np.zeros(self.rows.count, bool)
        self.compare(np.arange(min(self.rows.count, EXACT)), self.is_checked)

    def ask(self, group: int, first: int = 0) -> GroupJob:
        """Returns the job of a group of hashes, by what is known now."""
        known = [(row, min(earlier)) for row, earlier in self.earlier.items()]
        settled = np.array(known, np.int64).reshape(-1, 2).T
        given = self.key, self.url, self.rows.count, EXACT, self.max_similarity
        return GroupJob(*given, settled, group, first)

    def look_again(self, found: GroupFound) -> None:
        """Takes what was found in a group of hashes, when all groups before it are settled."""
        if self._buckets is None:
            at = self.rows.path.parent
            self._buckets = Buckets(at, self.rows.count, EXACT, self.max_similarity)
            self._buckets.settle(*self.ask(0).settled)
        self.compared += found.compared
        for table in found.tables:
            self.note(*self._buckets.look(table.codes, table.rows))
        self._buckets.rest()
        if found.stop < TABLES:  # most rows repeat others: what is settled now makes them few
            self.look_again(self.ask(found.group, found.stop).search())

    def complete(self) -> None:
        """Compares what is kept and was compared with too few, once all groups are settled."""
        later = np.zeros(self.rows.count - len(self.is_checked), bool)  # added since the first
        self.is_checked = np.concatenate([self.is_checked, later])
        if self._buckets is not None:
            self.is_checked |= self._buckets.settled == self.rows.count
            self._buckets = None
        while len(rows := np.flatnonzero((kept := self._keep()) & ~self.is_checked)):
            self.compare(rows, kept)

    def compare(self, rows: Rows, kept: NDArray[np.bool_]) -> None:
        """Compares rows, ascending, with all that are checked; those that repeat none are so then.

        Args:
            rows: to compare.
            kept: (N,) bool: checked rows that settle it for a row which repeats them.
        """
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            mine = self.rows.pick(block)
            repeats = np.zeros(len(block), bool)
            others = np.flatnonzero(self.is_checked)
            for begin in range(0, len(others), CHUNK):
                part = others[begin : begin + CHUNK]
                first, second = find_near(mine, self.rows.pick(part), self.max_similarity)
                self.compared += len(block) * len(part)
                self.note(block[first], part[second])
                is_settled = kept[part[second]] & (part[second] < block[first])
                repeats[first[is_settled]] = True
            open_rows = np.flatnonzero(~repeats)
            first, second = find_near(mine, mine[open_rows], self.max_similarity)
            self.compared += len(block) * len(open_rows) // 2
            pairs = zip(first.tolist(), open_rows[second].tolist(), strict=True)
            for j, i in pairs:  # in the order of rows
                if i < j and not repeats[i]:
                    self.note(block[[i]], block[[j]])
                    repeats[j] = True
            new = block[~repeats]
            self.is_checked[new] = True
            kept[new] = True

    def note(self, first: Rows, second: Rows) -> None:
        """Keeps pairs of near rows, in any order."""
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            known = self.earlier.setdefault(max(i, j), [])
            if min(i, j) not in known:
                known.append(min(i, j))

    def _keep(self) -> NDArray[np.bool_]:
        """Returns (N,) bool: rows that repeat no earlier row that is kept."""
        kept = np.ones(self.rows.count, bool)
        for row in sorted(self.earlier):
            kept[row] = not kept[self.earlier[row]].any()
        return kept


@dataclass(frozen=True, slots=True)
class FirstFound:
    """What was found among the first rows of a series."""

    key: str
    earlier: dict[int, list[int]]
    is_checked: NDArray[np.bool_]
    compared: int

    def settle(self, near: NearPairs) -> None:
        """Gives it to the series."""
        near.earlier, near.is_checked = self.earlier, self.is_checked
        near.compared = self.compared


@dataclass(frozen=True, slots=True)
class FirstJob:
    """The first rows of a series, all pairs of which are compared."""

    key: str
    url: str
    count: int
    max_similarity: float

    def search(self) -> FirstFound:
        """Compares them."""
        with borrow(self.url, [DescriptorFile.name]) as at:
            rows = DescriptorFile(at / DescriptorFile.name, self.count)
            near = NearPairs(rows, self.max_similarity)
            near.compare_first()
        return FirstFound(self.key, near.earlier, near.is_checked, near.compared)


Job = FirstJob | GroupJob


def find_pairs(growing: Iterable[NearPairs], machines: Machines, lent: str = "") -> None:
    """Looks for pairs among all rows of each series; the same whoever does what, and when.

    Args:
        growing: series, each as often as its file grew; all are whole at the end. First rows are
            compared while others are still to come.
        machines: that do it.
        lent: URL that workers see, where they do not see the files themselves.
    """
    series: dict[str, NearPairs] = {}
    with Hashing(machines) as hashing:
        jobs = _draw(growing, series, lent, hashing)
        for found in spread_jobs(machines, search_all, jobs, beside=True):
            for each in found:
                each.settle(series[each.key])
    for near in series.values():
        near.complete()


def search_all(jobs: Sequence[Job]) -> tuple[FirstFound | GroupFound, ...]:
    """Does jobs, one after the other."""
    return tuple(job.search() for job in jobs)


class Hashing:
    """Writes what descriptors are hashed by.

    Where the jobs are processes of their own, which this one would keep waiting, a thread begins
    with it while more descriptors are read.
    """

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self._thread = ThreadPoolExecutor(1, "hashing")
        self._begun: dict[str, int] = {}
        self._writing: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def go_on(self, near: NearPairs) -> None:
        """Begins with whole blocks of rows, where a series will need them."""
        start, stop = self._begun.get(near.key, 0), near.rows.count // _HASHED * _HASHED
        if start < stop and near.rows.count > EXACT and self._is_aside:
            self._begun[near.key] = stop
            self._writing.append(self._thread.submit(write_hashed, near.rows, start, stop))

    def end(self, near: NearPairs) -> None:
        """Writes what is left of a series whose rows are all there, and waits for the rest."""
        for each in self._writing:
            each.result()
        write_hashed(near.rows, self._begun.get(near.key, 0), near.rows.count)

    @functools.cached_property
    def _is_aside(self) -> bool:
        return choose_executor(self.machines.workers) == "ray"


def _draw(
    growing: Iterable[NearPairs], series: dict[str, NearPairs], lent: str, hashing: Hashing
) -> Iterator[tuple[Job, ...]]:
    """Yields the jobs of the first rows, small series together, then those of each group.

    `series` takes what grows, by key.
    """
    small: dict[str, NearPairs] = {}
    for near in growing:
        if near.key not in series:
            series[near.key] = small[near.key] = near
        if near.rows.count >= EXACT and small.pop(near.key, None) is not None:
            yield (near.begin(lent),)
        hashing.go_on(near)
    waiting: list[Job] = []
    rows = 0
    for near in small.values():
        waiting.append(near.begin(lent))
        rows += near.rows.count
        if rows >= EXACT:
            yield tuple(waiting)
            waiting, rows = [], 0
    if waiting:
        yield tuple(waiting)
    for near in series.values():
        if near.rows.count > EXACT:
            hashing.end(near)
            if lent:
                lend([near.rows.path.parent / name for name in NAMES], near.url)
            for group in range(count_groups(count_taken(near.rows.count))):
                yield (near.ask(group),)
