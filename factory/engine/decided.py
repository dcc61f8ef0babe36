"""What became of each candidate: decided once, kept on disk, and told as often as it is asked."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.errors import StoreError
from factory.core.files.spool import Spool
from factory.data.records import Shard
from factory.engine.committed import PLACES, keep_wanted, read_markers, read_rows
from factory.engine.later import Later
from factory.engine.plan import Outline
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.selection import ACCEPTED, NOT_PICKED, Decision


@dataclass(frozen=True, slots=True)
class DecidedShard:
    """The decisions over a committed shard.

    Attributes:
        shard: which.
        rounds: of it that were there.
        decisions: of its candidates, by request and attempt.
        names: sample ids of the accepted ones, where some may be left out yet; else empty.
    """

    shard: Shard
    rounds: int
    decisions: Sequence[Decision]
    names: Sequence[str] = ()

    def pack(self) -> list[Any]:
        """Returns what JSON can hold of it: decisions that are equal and follow each other once."""
        shard = self.shard
        runs = [
            [sum(1 for _ in run), each.status, each.rejected_by, each.reason, each.match]
            for each, run in itertools.groupby(self.decisions)
        ]
        return [[shard.series, shard.start, shard.stop], self.rounds, runs, [*self.names]]

    @classmethod
    def unpack(cls, packed: list[Any]) -> "DecidedShard":
        """Returns what `pack` was given."""
        place, rounds, runs, names = packed
        decisions: list[Decision] = []
        for count, *told in runs:
            each = Decision(*told)
            decisions += [ACCEPTED if each == ACCEPTED else each] * count
        return cls(Shard(*place), rounds, decisions, names)


class Decided:
    """The decisions over all committed shards, in their order: memory holds those of one."""

    def __init__(self) -> None:
        self._spool: Spool[DecidedShard] = Spool(DecidedShard.pack, DecidedShard.unpack)
        self._left_out: frozenset[int] = frozenset()
        self._instead = NOT_PICKED

    def add(self, decided: DecidedShard) -> None:
        """Takes those over the next shard.

        Raises:
            StoreError: the temporary folder has no room.
        """
        self._spool.extend([decided])

    def leave_out(self, sample_ids: frozenset[int], instead: Decision) -> None:
        """Has accepted images of some sample ids be decided otherwise; all are named."""
        self._left_out, self._instead = sample_ids, instead

    def __iter__(self) -> Iterator[DecidedShard]:
        return map(self._settle, self._spool)

    def _settle(self, found: DecidedShard) -> DecidedShard:
        if not self._left_out:
            return found
        names = iter(found.names)
        decisions = [
            self._instead
            if each.status == "accepted" and int(next(names), 16) in self._left_out
            else each
            for each in found.decisions
        ]
        return DecidedShard(found.shard, found.rounds, decisions)


def read_decided(folder: RunFolder, decided: DecidedShard) -> tuple[Marker, ...]:
    """Returns the markers of the rounds of a shard that were decided over.

    Raises:
        StoreError: one is damaged, or gone.
    """
    markers = tuple(read_markers(folder, decided.shard)[: decided.rounds])
    if len(markers) < decided.rounds:
        raise _describe_change(folder, decided.shard)
    return markers


def iterate_decisions(
    folder: RunFolder, plan: Outline, later: Later, decided: Decided, columns: tuple[str, ...]
) -> Iterator[tuple[Shard, list[tuple[dict[str, Any], Decision]]]]:
    """Yields each decided shard's candidates with what became of them, by request and attempt.

    Args:
        folder: run folder.
        plan: its series and shards.
        later: scores that came after the run.
        decided: by the same plan and scores.
        columns: those to read, besides those that tell places.

    Raises:
        StoreError: a shard is damaged, or another one since.
    """
    told = tuple(dict.fromkeys((*PLACES, *columns)))
    for each in decided:
        rows = read_rows(folder, read_decided(folder, each), told, later)
        rows = keep_wanted(plan, rows)
        if len(rows) != len(each.decisions):
            raise _describe_change(folder, each.shard)
        yield each.shard, list(zip(rows, each.decisions, strict=True))


def _describe_change(folder: RunFolder, shard: Shard) -> StoreError:
    return StoreError(
        f"{folder.url}: shard {shard.id} changed while it was read: run the same command again"
    )
