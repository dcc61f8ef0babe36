"""Hashes of descriptors, by which near-duplicates share a bucket; each group of tables is a job.

Pairs are candidates where they share a bucket of random hashes (p-stable locality-sensitive
hashing, Datar et al. 2004). Hashes are drawn by a fixed seed, not by the data, rows or their order.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factory.core.files.borrowed import borrow
from factory.core.files.edge import Edge
from factory.core.files.temporary import make_temporary
from factory.core.hashing import derive_seed
from factory.engine.dedup import ORBITS, PAIR_BLOCK, SLACK, compare_pairs
from factory.engine.near_files import (
    CHUNK,
    NAMES,
    STEPS,
    WIDE,
    DescriptorFile,
    InvariantFile,
    SketchFile,
)

MISSED = 1e-6
"""Chance that a pair just above the similarity shares no bucket, at most."""
WIDTH = 4.0
"""Of a hash's buckets, in distances of a pair that is just above the similarity."""
TABLES, DIRECTIONS, PROJECTIONS = 32, 128, 18
"""Tables of a group, directions that it draws, and how many of them a table takes, at least."""
_PAIRS, _TOLD = 1 << 15, 1 << 20
"""Pairs of sketches at a time; rows of buckets that a job tells of before it ends early."""
_KEYS, _NUMBER = 1 << 16, (1 << 31) - 1
"""Keys that are built at a time; the bits of a key that tell its row."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bucketed:
    """Rows of some buckets of one table, and the codes of these buckets."""

    codes: NDArray[np.uint32]
    rows: NDArray[np.int32]


class TakesGroup(Protocol):
    """A series, which takes what was found in groups in their order."""

    def look_again(self, found: "GroupFound") -> None:
        """Takes it."""
        ...


@dataclass(frozen=True, slots=True)
class GroupFound:
    """What was seen in tables of a group: whole buckets that hold near-duplicates.

    Attributes:
        tables: one each.
        stop: table that comes next; TABLES where all were looked through.
        compared: pairs of sketches.
    """

    key: str
    group: int
    tables: tuple[Bucketed, ...]
    stop: int
    compared: int

    def settle(self, near: "TakesGroup") -> None:
        """Gives it to the series."""
        near.look_again(self)


@dataclass(frozen=True, slots=True)
class GroupJob:
    """A group of tables to look through.

    Each is looked through as if no table had been before: what is found in a bucket hangs on who is
    in it, and on which rows were settled when the job was drawn. As rows that are settled by then
    stay so, a bucket in which nothing is found holds no pair that anybody would find later; the
    others are told whole, and looked through once more when it is known which rows are settled.

    Attributes:
        key: of the series.
        url: folder of its files.
        count: rows.
        exact: rows among which all pairs were compared.
        settled: (2, S) rows that repeat an earlier one, and the first that each repeats.
        first: table to begin with.
    """

    key: str
    url: str
    count: int
    exact: int
    max_similarity: float
    settled: Rows
    group: int
    first: int = 0

    def search(self) -> GroupFound:
        """Looks through the tables."""
        with (
            borrow(self.url, NAMES) as at,
            make_temporary("finalise") as below,
        ):
            buckets = Buckets(at, self.count, self.exact, self.max_similarity)
            buckets.settle(*self.settled)
            invariants = InvariantFile(at / InvariantFile.name, self.count)
            write_codes(Path(below) / "codes", invariants, self.group, self.max_similarity)
            return self._look(buckets, Path(below) / "codes")

    def _look(self, buckets: "Buckets", path: Path) -> GroupFound:
        every = np.arange(self.count, dtype=np.int32)
        tables: list[Bucketed] = []
        table = self.first
        while table < TABLES and sum(len(each.rows) for each in tables) < _TOLD:
            codes = np.fromfile(path, np.uint32, self.count, offset=table * self.count * 4)
            _, later = buckets.look(codes, every)
            buckets.open(later)
            tables.append(_select(codes, codes[later]))
            table += 1
        return GroupFound(self.key, self.group, tuple(tables), table, buckets.compared)


def _select(codes: NDArray[np.uint32], wanted: NDArray[np.uint32]) -> Bucketed:
    """Returns the buckets of some codes, of all rows."""
    is_likely = np.zeros(1 << 16, bool)  # before the sort of all that `isin` would be
    is_likely[wanted & 0xFFFF] = True
    rows = np.flatnonzero(is_likely[codes & 0xFFFF]).astype(np.int32)
    rows = rows[np.isin(codes[rows], wanted)]
    return Bucketed(codes[rows], rows)


class Buckets:
    """Rows of a series, beside all before them that share a bucket with them.

    The chance to share one depends on the distance of their invariants alone, which is at most that
    of the descriptors, sqrt(2 - 2 similarity).

    Attributes:
        distance: of a pair that is just above the similarity.
        settled: (N,) first row that each repeats, or N: such a row is open.
        compared: pairs of sketches.
    """

    def __init__(self, at: Path, count: int, exact: int, max_similarity: float) -> None:
        self.count, self.exact, self.max_similarity = count, exact, max_similarity
        self.rows = DescriptorFile(at / DescriptorFile.name, count)
        self.distance = find_distance(max_similarity)
        self.settled = np.full(count, count, np.int32)
        self.compared = 0
        self._near = self._unlike = np.zeros(0, np.int64)
        """Pairs that were compared in full, sorted: later << 32 | earlier."""
        self._at = at
        self._map: NDArray[np.int8] | None = None

    @property
    def sketch(self) -> NDArray[np.int8]:
        """(N, 36) sketches, a map of their file."""
        if self._map is None:
            shape = self.count, SketchFile.width
            self._map = np.memmap(self._at / SketchFile.name, np.int8, "r", shape=shape)
        return self._map

    def rest(self) -> None:
        """Lets go of the map, whose pages count as memory of ours, until it is needed again."""
        self._map = None

    def settle(self, later: Rows, first: Rows) -> None:
        """Notes which rows repeat an earlier one."""
        np.minimum.at(self.settled, later, first.astype(self.settled.dtype))

    def open(self, rows: Rows) -> None:
        """Forgets that rows repeat an earlier one."""
        self.settled[rows] = self.count

    def look(self, codes: NDArray[np.uint32], rows: NDArray[np.int32]) -> tuple[Rows, Rows]:
        """Compares the rows of each bucket of a table with the open ones before them.

        Args:
            codes: (M,) of the buckets.
            rows: (M,) whole buckets.

        Returns:
            Earlier and later rows of the near-duplicates that settle the later one, which is noted.
        """
        keys = self._sort(codes, rows)
        places = _find_shared(keys)
        found = [np.zeros((2, 0), np.int64)]
        if not len(places):
            return found[0][0], found[0][1]
        is_second = np.diff(places, prepend=-1) != 1
        begins = np.maximum.accumulate(np.where(is_second, places - 1, 0))
        step, stop = 0, 1
        while len(places):
            pairs = [np.zeros((2, 0), np.int64)]
            for place in range(step, stop):
                is_after = places > begins + place
                both = keys[begins[is_after] + place], keys[places[is_after]]
                pairs.append(np.stack([_read_rows(each) for each in both]))
            found.append(self._compare(*np.concatenate(pairs, axis=1)))
            step, stop = stop, 2 * stop
            is_left = places > begins + step
            places, begins = places[is_left], begins[is_left]
            following = _read_rows(keys[begins + step])
            is_left = following < self.settled[_read_rows(keys[places])]
            is_left &= self.settled[following] == self.count
            places, begins = places[is_left], begins[is_left]
        earlier, later = np.concatenate(found, axis=1)
        return earlier, later

    def _sort(self, codes: NDArray[np.uint32], rows: NDArray[np.int32]) -> NDArray[np.uint64]:
        """Returns keys: in a bucket open rows come first, then settled ones; each by number."""
        keys = codes.astype(np.uint64)
        for start in range(0, len(keys), _KEYS):
            part = slice(start, start + _KEYS)
            keys[part] <<= 32
            keys[part] |= (self.settled[rows[part]] < self.count).astype(np.uint64) << 31
            keys[part] |= rows[part].astype(np.uint64)
        keys.sort()
        return keys

    def _compare(self, first: Rows, second: Rows) -> Rows:
        """Compares pairs that could settle the second row, and settles it where they do."""
        is_open = (self.settled[first] == self.count) & (first < second) & (second >= self.exact)
        is_open &= first < self.settled[second]
        first, second = first[is_open], second[is_open]
        self.compared += len(first)
        limit = (STEPS * self.distance + math.sqrt(len(ORBITS))) ** 2
        is_possible = np.zeros(len(first), bool)
        for start in range(0, len(first), _PAIRS):
            part = slice(start, start + _PAIRS)
            apart = self.sketch[first[part]].astype(np.int16) - self.sketch[second[part]]
            squares = np.einsum("ij,ij->i", apart, apart, dtype=np.int32)
            is_possible[part] = squares <= limit
        keys = second[is_possible] << 32 | first[is_possible]
        keys = keys[~np.isin(keys, self._unlike)]
        is_known = np.isin(keys, self._near)
        near = np.concatenate([keys[is_known], self._confirm(np.sort(keys[~is_known]))])
        later, earlier = _split(near)
        self.settle(later, earlier)
        return np.stack([earlier, later])

    def _confirm(self, keys: Rows) -> Rows:
        """Compares pairs in full, and keeps what came of it; returns those that are near."""
        is_near = np.zeros(len(keys), bool)
        for start in range(0, len(keys), PAIR_BLOCK):
            later, earlier = _split(keys[start : start + PAIR_BLOCK])
            similar = compare_pairs(self.rows.pick(later), self.rows.pick(earlier))
            is_near[start : start + PAIR_BLOCK] = similar > self.max_similarity
        self._near = np.union1d(self._near, keys[is_near])
        self._unlike = np.union1d(self._unlike, keys[~is_near])
        return keys[is_near]


def _find_shared(keys: NDArray[np.uint64]) -> Rows:
    """Returns the places of sorted keys that have the code of the one before."""
    found = [np.zeros(0, np.int64)]
    for start in range(1, len(keys), _KEYS):
        codes = keys[start - 1 : start + _KEYS] >> 32
        found.append(start + np.flatnonzero(codes[1:] == codes[:-1]))
    return np.concatenate(found)


def _read_rows(keys: NDArray[np.uint64]) -> Rows:
    """Returns the rows of keys."""
    return (keys & _NUMBER).astype(np.int64)


def _split(keys: Rows) -> tuple[Rows, Rows]:
    """Returns later and earlier rows of pairs."""
    return keys >> 32, keys & 0xFFFFFFFF


def write_codes(path: Path, invariants: InvariantFile, group: int, max_similarity: float) -> None:
    """Writes the (TABLES, N) codes of a group: sums of hashed places along its directions."""
    generator = np.random.default_rng(derive_seed(group, "near_pairs"))
    width, count = WIDTH * find_distance(max_similarity), invariants.count
    directions = generator.normal(size=(DIRECTIONS, WIDE)).astype(np.float32) / width
    offsets = generator.random((DIRECTIONS, 1), np.float32)
    factors = generator.integers(1 << 31, size=(DIRECTIONS, 1), dtype=np.uint32) * 2 + 1
    drawn = [generator.permutation(DIRECTIONS)[: count_taken(count)] for _ in range(TABLES)]
    with Edge(str(path.parent), path.name, is_local=True), path.open("wb") as stream:
        for start in range(0, count, CHUNK):
            part = invariants.read(start, min(start + CHUNK, count))
            places = np.floor(directions @ part.astype(np.float32).T + offsets)
            hashed = places.astype(np.int32).view(np.uint32) * factors
            for table, rows in enumerate(drawn):
                stream.seek((table * count + start) * hashed.itemsize)
                stream.write(hashed[rows].sum(axis=0, dtype=np.uint32).data)


def find_distance(max_similarity: float) -> float:
    """Returns the distance of descriptors that are just above a similarity."""
    return math.sqrt(max(2 * (1 - max_similarity), 0.0) + 2 * SLACK)


def count_taken(count: int) -> int:
    """Returns the projections of a table, of the DIRECTIONS of its group, for so many rows."""
    return max(PROJECTIONS, count.bit_length() - 2)


@functools.cache
def count_groups(taken: int) -> int:
    """Returns how many groups leave a pair just above the similarity unseen by chance MISSED.

    Args:
        taken: projections of a table, of the DIRECTIONS of its group.
    """
    # That a bucket's edge falls not between two points (Datar et al. 2004, section 3.2).
    spread = (1 - math.exp(-(WIDTH**2) / 2)) * 2 / (math.sqrt(2 * math.pi) * WIDTH)
    alike = math.erf(WIDTH / math.sqrt(2)) - spread
    whole = math.comb(DIRECTIONS, taken)
    missed = sum(
        math.comb(DIRECTIONS, same)
        * alike**same
        * (1 - alike) ** (DIRECTIONS - same)
        * (1 - math.comb(same, taken) / whole) ** TABLES
        for same in range(DIRECTIONS + 1)
    )
    return math.ceil(math.log(MISSED) / math.log(missed))
