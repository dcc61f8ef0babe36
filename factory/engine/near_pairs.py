"""Near-duplicate pairs of a large set of descriptors, at a cost that grows with its size.

Up to EXACT rows all pairs are compared, spared by a bound. Beyond, pairs are candidates where they
share a bucket of random hashes (p-stable locality-sensitive hashing, Datar et al. 2004); candidates
are compared exactly. Hashes are drawn by a fixed seed and not by the data, rows or their order.
"""

import functools
import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.files.rows import RowFile
from factory.core.hashing import derive_seed
from factory.core.thumbnails import DIM, SIDE, Descriptors
from factory.engine.dedup import ORBITS, SLACK, compare_pairs, find_near

EXACT = 1 << 15
"""Rows up to which all pairs are compared; of more rows, the first so many."""
MISSED = 1e-6
"""Chance that a pair beyond them, just above the similarity, shares no bucket, at most."""
WIDTH = 4.0
"""Of a hash's buckets, in distances of a pair that is just above the similarity."""
TABLES, DIRECTIONS, PROJECTIONS = 32, 128, 18
"""Tables of a group, directions that it draws, and how many of them a table takes, at least."""
_BLOCK, _CHUNK, _PAIRS = 1024, 4096, 1 << 15
_STEPS = 400
"""Steps per unit of the sketch, of 36 numbers that are hardly above 0.3."""

WIDE = 192
"""Invariants of a descriptor."""

Rows = NDArray[np.int64]


@functools.cache
def _build_invariants() -> tuple[NDArray[np.float32], ...]:
    """Returns the (36, 256), (92, 256), (64, 256) and (64, 256) rows that `embed` projects on.

    The symmetry group of the square splits descriptors into orthogonal parts: what all eight poses
    share, what they only change the sign of, and pairs of numbers that they turn.
    """
    line = np.eye(SIDE // 2)
    even = np.concatenate([line, line[:, ::-1]], axis=1) / math.sqrt(2)
    odd = np.concatenate([line, -line[:, ::-1]], axis=1) / math.sqrt(2)
    signed = []
    for waves in (even, odd):
        for i in range(len(waves)):
            for j in range(i + 1):
                outer = np.outer(waves[i], waves[j])
                if i == j:
                    signed += [outer] if waves is odd else []
                    continue
                signed += [(outer - outer.T) / math.sqrt(2)]
                signed += [(outer + outer.T) / math.sqrt(2)] if waves is odd else []
    turned = [np.outer(first, second) for first in odd for second in even]
    parts = [ORBITS, signed, turned, [each.T for each in turned]]
    return tuple(np.asarray(part, np.float32).reshape(-1, DIM) for part in parts)


def embed(descriptors: Descriptors) -> NDArray[np.float32]:
    """Returns (N, 192) numbers that no flip or turn changes.

    Their distances are at most those of the descriptors in the nearest pose.
    """
    shared, signed, first, second = _build_invariants()
    values = descriptors.astype(np.float32)
    lengths = np.hypot(values @ first.T, values @ second.T)
    return np.concatenate([values @ shared.T, np.abs(values @ signed.T), lengths], axis=1)


class DescriptorFile(RowFile):
    """Descriptors, (N, 256): memory holds the part at hand."""

    dtype = np.float16

    def read(self, start: int, stop: int) -> Descriptors:
        """Returns the (stop - start, 256) descriptors of rows that follow each other."""
        return _read(self.path, DIM, start, stop)

    def pick(self, rows: Rows) -> Descriptors:
        """Returns the (N, 256) descriptors of any rows."""
        opened = np.memmap(self.path, np.float16, "r", shape=(self.count, DIM))
        found = np.asarray(opened[rows])
        opened._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # pages count as ours
        return found


def _read(path: Path, width: int, start: int, stop: int) -> Descriptors:
    size = width * np.dtype(np.float16).itemsize
    found = np.fromfile(path, np.float16, (stop - start) * width, offset=start * size)
    return found.reshape(-1, width)


@dataclass(slots=True)
class NearPairs:
    """Near-duplicates among the rows of a file, as far as they were looked for.

    A row that repeats an earlier one counts no more as one that others may repeat: so many images
    that are all alike cost no more than others.

    Attributes:
        earlier: row -> earlier rows that it nearly repeats.
        is_checked: (N,) bool; of any two rows where this is true it is known whether they are near.
        compared: pairs that were compared, by the bound or in full.
    """

    rows: DescriptorFile
    max_similarity: float
    earlier: dict[int, list[int]] = field(default_factory=dict)
    is_checked: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    compared: int = 0

    def find(self) -> None:
        """Looks for pairs among all rows."""
        count = self.rows.count
        self.is_checked = np.zeros(count, bool)
        self.compare(np.arange(min(count, EXACT)), self.is_checked)
        if count > EXACT:
            _Hashes(self).find()
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
            for begin in range(0, len(others), _CHUNK):
                part = others[begin : begin + _CHUNK]
                first, second = find_near(mine, self.rows.pick(part), self.max_similarity)
                self.compared += len(block) * len(part)
                self.note(block[first], part[second])
                is_settled = kept[part[second]] & (part[second] < block[first])
                repeats[first[is_settled]] = True
            first, second = find_near(mine, mine, self.max_similarity)
            self.compared += len(block) ** 2 // 2
            for j, i in zip(first.tolist(), second.tolist(), strict=True):  # in the order of rows
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


class _Hashes:
    """Rows beyond EXACT beside all that share a bucket with them.

    The chance to share one depends on the distance of their invariants alone, which is at most that
    of the descriptors, sqrt(2 - 2 similarity).
    """

    def __init__(self, near: NearPairs) -> None:
        self.near, self.count = near, near.rows.count
        self.distance = math.sqrt(max(2 * (1 - near.max_similarity), 0.0) + 2 * SLACK)
        self.taken = max(PROJECTIONS, self.count.bit_length() - 2)
        self.settled = np.full(self.count, self.count)
        """(N,) first checked or open row that each repeats, or N."""
        for row, earlier in near.earlier.items():
            self.settled[row] = min(earlier)
        self.sketch = np.zeros((self.count, len(ORBITS)), np.int8)
        folder = near.rows.path.parent
        self.invariants, self.codes = folder / "invariants", folder / "codes"
        self.refuted = np.zeros(0, np.int64)

    def find(self) -> None:
        """Looks through all tables."""
        with self.invariants.open("wb") as stream:
            for start in range(0, self.count, _CHUNK):
                values = embed(self.near.rows.read(start, min(start + _CHUNK, self.count)))
                steps = np.rint(_STEPS * values[:, : len(ORBITS)])
                self.sketch[start : start + _CHUNK] = np.clip(steps, -127, 127)
                values.astype(np.float16).tofile(stream)
        for group in range(count_groups(self.taken)):
            self._write_codes(np.random.default_rng(derive_seed(group, "near_pairs")))
            for table in range(TABLES):
                self._look_through(table)
            self.refuted = np.zeros(0, np.int64)
        self.near.is_checked |= self.settled == self.count

    def _write_codes(self, generator: np.random.Generator) -> None:
        """Writes the (TABLES, N) codes of a group: sums of hashed places along its directions."""
        width = WIDTH * self.distance
        directions = generator.normal(size=(DIRECTIONS, WIDE)).astype(np.float32) / width
        offsets = generator.random((DIRECTIONS, 1), np.float32)
        factors = generator.integers(1 << 31, size=(DIRECTIONS, 1), dtype=np.uint32) * 2 + 1
        drawn = [generator.permutation(DIRECTIONS)[: self.taken] for _ in range(TABLES)]
        with self.codes.open("wb") as stream:
            for start in range(0, self.count, _CHUNK):
                part = _read(self.invariants, WIDE, start, min(start + _CHUNK, self.count))
                places = np.floor(directions @ part.astype(np.float32).T + offsets)
                hashed = places.astype(np.int32).view(np.uint32) * factors
                for table, rows in enumerate(drawn):
                    stream.seek((table * self.count + start) * hashed.itemsize)
                    hashed[rows].sum(axis=0, dtype=np.uint32).tofile(stream)

    def _look_through(self, table: int) -> None:
        """Compares the rows of each bucket of a table with the open ones before them."""
        codes = np.fromfile(self.codes, np.uint32, self.count, offset=table * self.count * 4)
        keys = codes.astype(np.uint64) << 32
        keys |= (self.settled < self.count).astype(np.uint64) << 31
        keys |= np.arange(self.count, dtype=np.uint64)
        keys.sort()  # in a bucket: open rows first, then settled ones; each by number
        codes = (keys >> 32).astype(np.uint32)
        places = np.flatnonzero(codes[1:] == codes[:-1]) + 1
        if not len(places):
            return
        is_second = np.diff(places, prepend=-1) != 1
        begins = np.maximum.accumulate(np.where(is_second, places - 1, 0))
        numbers = (keys & ((1 << 31) - 1)).astype(np.int64)
        step, stop = 0, 1
        while len(places):
            pairs = [np.zeros((2, 0), np.int64)]
            for place in range(step, stop):
                is_after = places > begins + place
                pairs.append(
                    np.stack([numbers[begins[is_after] + place], numbers[places[is_after]]])
                )
            self._compare(*np.concatenate(pairs, axis=1))
            step, stop = stop, 2 * stop
            is_left = places > begins + step
            places, begins = places[is_left], begins[is_left]
            following = numbers[begins + step]
            is_left = (following < self.settled[numbers[places]]) & (
                self.settled[following] == self.count
            )
            places, begins = places[is_left], begins[is_left]

    def _compare(self, first: Rows, second: Rows) -> None:
        """Compares pairs that could settle the second row, and settles it where they do."""
        is_open = (self.settled[first] == self.count) & (first < second) & (second >= EXACT)
        is_open &= first < self.settled[second]
        first, second = first[is_open], second[is_open]
        self.near.compared += len(first)
        limit = (_STEPS * self.distance + math.sqrt(len(ORBITS))) ** 2
        is_possible = np.zeros(len(first), bool)
        for start in range(0, len(first), _PAIRS):
            part = slice(start, start + _PAIRS)
            apart = self.sketch[first[part]].astype(np.int16) - self.sketch[second[part]]
            squares = np.einsum("ij,ij->i", apart, apart, dtype=np.int32)
            is_possible[part] = squares <= limit
        keys = np.sort(second[is_possible] << 32 | first[is_possible])
        known = np.searchsorted(self.refuted, keys)
        known[known == len(self.refuted)] = -1
        keys = keys[self.refuted[known] != keys] if len(self.refuted) else keys
        refuted = [self.refuted]
        for start in range(0, len(keys), _CHUNK):
            some = keys[start : start + _CHUNK]
            later, earlier = some >> 32, some & 0xFFFFFFFF
            similar = compare_pairs(self.near.rows.pick(later), self.near.rows.pick(earlier))
            is_near = similar > self.near.max_similarity
            refuted.append(some[~is_near])
            self.near.note(earlier[is_near], later[is_near])
            np.minimum.at(self.settled, later[is_near], earlier[is_near])
        self.refuted = np.unique(np.concatenate(refuted))


@functools.cache
def count_groups(taken: int) -> int:
    """Returns how many groups leave a pair just above the similarity unseen by chance MISSED.

    Args:
        taken: projections of a table, of the DIRECTIONS of its group.
    """
    from scipy.stats import binom, norm

    # That a bucket's edge falls not between two points (Datar et al. 2004, section 3.2).
    spread = (1 - math.exp(-(WIDTH**2) / 2)) * 2 / (math.sqrt(2 * math.pi) * WIDTH)
    alike = 2 * norm.cdf(WIDTH) - 1 - spread
    whole = math.comb(DIRECTIONS, taken)
    missed = sum(
        binom.pmf(same, DIRECTIONS, alike) * (1 - math.comb(same, taken) / whole) ** TABLES
        for same in range(DIRECTIONS + 1)
    )
    return math.ceil(math.log(MISSED) / math.log(missed))
