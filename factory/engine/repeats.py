"""What is known of a run's candidates before they are selected: repeated ids, near-duplicates."""

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.files.edge import Edge
from factory.core.files.keys import KeyFile
from factory.core.files.store import FileStore
from factory.core.files.temporary import make_temporary
from factory.data.records import Verdict
from factory.engine.executors.machines import HERE, Machines
from factory.engine.near_files import DescriptorFile
from factory.engine.near_pairs import NearPairs, find_pairs
from factory.engine.placing import BUILD

NEAR = f"{BUILD}/near"
"""Where workers on other machines find descriptors, each search in a folder of its own."""
Row = Mapping[str, Any]
Earlier = Mapping[int, list[int]]
"""Place of a candidate in its series -> places of earlier ones that it nearly repeats."""


class TakenIds(set[int]):
    """Sample ids of accepted images: those alone that a run holds more than once.

    Args:
        repeated: first 64 bits of such ids.
    """

    def __init__(self, repeated: frozenset[int]) -> None:
        super().__init__()
        self.repeated = repeated

    def add(self, identity: int) -> None:
        """Keeps the id, where another candidate may have it."""
        if identity >> 64 in self.repeated:
            super().add(identity)


class WalkedSeries:
    """A walk over the candidates of a series, in order, and what of them was taken.

    Args:
        earlier: near-duplicates among them.
        count: of its candidates; 0 where it does not matter which are taken.
    """

    def __init__(self, earlier: Earlier, count: int = 0) -> None:
        self.earlier = earlier
        self.is_taken = np.zeros(count, bool)
        self._repeated = {place for places in earlier.values() for place in places}
        self._names: dict[int, str] = {}
        self._place = -1

    def go_on(self) -> None:
        """Goes to the next candidate."""
        self._place += 1

    def find(self) -> str | None:
        """Returns the sample id of the first taken candidate that this one nearly repeats."""
        taken = [place for place in self.earlier.get(self._place, ()) if place in self._names]
        return self._names[min(taken)] if taken else None

    def take(self, sample_id: str) -> None:
        """Notes that this candidate is taken."""
        if self._place < len(self.is_taken):
            self.is_taken[self._place] = True
        if self._place in self._repeated:
            self._names[self._place] = sample_id


@dataclass(slots=True)
class _Series:
    """The candidates of a series: which are good, and the descriptors of these."""

    near: NearPairs
    parts: list[NDArray[np.bool_]] = field(default_factory=list)

    def list_good(self) -> NDArray[np.bool_]:
        self.parts = [np.concatenate([np.zeros(0, bool), *self.parts])]
        return self.parts[0]

    def list_earlier(self) -> Earlier:
        places = np.flatnonzero(self.list_good())
        return {
            int(places[row]): [int(places[each]) for each in earlier]
            for row, earlier in self.near.earlier.items()
        }


class Repeats:
    """Near-duplicates of each series, and sample ids that are there more than once.

    Args:
        folder: for what is kept on disk meanwhile.
        max_similarity: above it two images are near-duplicates; None: they are not looked for.
        machines: that look for them.
        lent: URL of a store where they find what the folder holds; "": they see the folder.
    """

    def __init__(
        self, folder: Path, max_similarity: float | None, machines: Machines = HERE, lent: str = ""
    ) -> None:
        self.folder, self.max_similarity = folder, max_similarity
        self.machines, self.lent = machines, lent
        self._ids = KeyFile(folder / "ids")
        self._series: dict[str, _Series] = {}
        self.repeated: frozenset[int] = frozenset()

    def find(
        self, candidates: Iterable[tuple[str, Sequence[Row]]], judge: Callable[[Row], Verdict]
    ) -> None:
        """Takes all candidates, and looks for repeats among them while they come.

        Args:
            candidates: series and its next candidates; of each series in order.
            judge: those that it calls good are compared.
        """
        find_pairs(self._take(candidates, judge), self.machines, self.lent)
        self.repeated = self._ids.find_repeated()

    def _take(
        self, candidates: Iterable[tuple[str, Sequence[Row]]], judge: Callable[[Row], Verdict]
    ) -> Iterator[NearPairs]:
        """Takes candidates; yields those of each series that are there."""
        for series, rows in candidates:
            self.add(series, rows, judge)
            if series in self._series:
                yield self._series[series].near

    def add(self, series: str, rows: Sequence[Row], judge: Callable[[Row], Verdict]) -> None:
        """Takes the next candidates of a series, in order; those judged good are compared."""
        self._ids.add(np.array([int(row["sample_id"][:16], 16) for row in rows], np.uint64))
        if self.max_similarity is None:
            return
        if series not in self._series:
            below = self.folder / series
            with Edge(str(self.folder), series, is_local=True):
                below.mkdir()
            rows_of = DescriptorFile(below / DescriptorFile.name)
            self._series[series] = _Series(NearPairs(rows_of, self.max_similarity, series))
        known = self._series[series]
        chosen = [
            place
            for place, row in enumerate(rows)
            if row["descriptor"] is not None and judge(row).accepted
        ]
        is_good = np.zeros(len(rows), bool)
        is_good[chosen] = True
        known.parts.append(is_good)
        if chosen:
            found = [rows[place]["descriptor"] for place in chosen]
            known.near.rows.add(np.array(found, np.float16))

    def begin_walks(self) -> dict[str, WalkedSeries]:
        """Begins a walk over each series."""
        return {
            series: WalkedSeries(known.list_earlier(), len(known.list_good()))
            for series, known in self._series.items()
        }

    def complete(self, walks: Mapping[str, WalkedSeries]) -> bool:
        """Compares what was taken and not compared with all else: another walk decides otherwise.

        Returns:
            Whether all that was taken had been compared.
        """
        is_complete = True
        for series, walked in walks.items():
            known = self._series[series]
            taken = walked.is_taken[known.list_good()]
            rows = np.flatnonzero(taken & ~known.near.is_checked)
            if len(rows):
                is_complete = False
                known.near.compare(rows, taken & known.near.is_checked)
        return is_complete


@contextmanager
def open_repeats(
    max_similarity: float | None, machines: Machines = HERE, files: FileStore | None = None
) -> Iterator[Repeats]:
    """Opens an empty one; what it keeps on disk goes with it.

    Args:
        max_similarity: above it two images are near-duplicates; None: they are not looked for.
        machines: that look for them.
        files: that all workers see; None: they are on this machine.
    """
    with contextlib.ExitStack() as stack:
        own = f"{NEAR}/{secrets.token_hex(4)}"  # one that lost its lease asleep writes on
        if files is not None:
            files.remove(NEAR)
            if files.is_local:
                stack.callback(_remove_empty, Path(files.resolve(NEAR)))
            stack.callback(files.remove, own)
        if files is not None and files.is_local:
            folder = Path(files.resolve(own))
            with Edge(files.url, own, is_local=True):
                folder.mkdir(parents=True)
        else:
            folder = Path(stack.enter_context(make_temporary("finalise")))
        lent = f"{files.url.rstrip('/')}/{own}" if files is not None and not files.is_local else ""
        yield Repeats(folder, max_similarity, machines, lent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
