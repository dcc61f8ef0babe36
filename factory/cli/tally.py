"""How far a run is: accepted, rate and time left of each series, from outcomes and progress."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from factory.data.records import Progress
from factory.engine.executors import Outcome

MIN_TRIED = 30
"""Tries of a series below which nothing is foretold."""


@dataclass(slots=True)
class Counts:
    """Requests of a series that got their image or spent their budget, and the tries at them."""

    filled: int = 0
    given_up: int = 0
    tried: int = 0

    def add(self, other: "Counts") -> None:
        """Adds what another part of the series has."""
        self.filled += other.filled
        self.given_up += other.given_up
        self.tried += other.tried


@dataclass(slots=True)
class Tally:
    """Counts what is committed and what is at work; speed is that of this start alone.

    Args:
        asked: requests of each series.
        attempts: tries that a request may cost.
        clock: seconds.
    """

    asked: Mapping[str, int]
    attempts: int
    clock: Callable[[], float] = time.monotonic
    committed: dict[str, Counts] = field(default_factory=dict)
    at_work: dict[tuple[str, int], Progress] = field(default_factory=dict)
    made: int = 0
    """Tries of this start, in tasks that are committed."""
    first: tuple[float, int] | None = None
    """When this start first told of a task, and of how many tries: models had loaded by then."""

    def __post_init__(self) -> None:
        self.committed = {key: Counts() for key in self.asked}

    def report(self, progress: Progress) -> None:
        """Takes how far a task is; a task that is tried again starts again."""
        self.at_work[progress.shard.id, progress.round] = progress
        self._note_first()

    def notify(self, outcome: Outcome) -> None:
        """Takes a task that ended; a quarantined one gives its tries back."""
        task, marker = outcome.task, outcome.marker
        last = self.at_work.pop((task.shard.id, task.round), None)
        if marker is None:
            return
        given_up = marker.asked - marker.filled
        self.committed[marker.series].add(Counts(marker.filled, given_up, marker.generated))
        if outcome.is_new:
            self.made += marker.generated - (last.recalled if last else 0)
            self._note_first()

    def recount(self, filled: Mapping[str, int], goes_on: Mapping[str, int]) -> None:
        """Takes which requests have their image after a look over the whole set."""
        for key, asked in self.asked.items():
            counts = self.committed[key]
            counts.filled = filled.get(key, 0)
            counts.given_up = asked - counts.filled - goes_on.get(key, 0)

    def count(self, key: str) -> Counts:
        """Returns the counts of a series, with those of tasks at work."""
        counts = Counts()
        counts.add(self.committed[key])
        for each in self.at_work.values():
            if each.shard.series == key:
                counts.add(Counts(each.filled, each.given_up, each.tried))
        return counts

    def count_all(self) -> Counts:
        """Returns the counts of all series."""
        counts = Counts()
        for key in self.asked:
            counts.add(self.count(key))
        return counts

    def foretell(self, key: str) -> int | None:
        """Returns how many images of a series its rate of accepted tries will give.

        None where it may still be all: told only if the upper end of the rate's interval (exact,
        97.5 %, Clopper and Pearson 1934), too, leaves a twentieth of the requests without one.
        """
        counts, asked = self.count(key), self.asked[key]

        def expect(rate: float) -> float:
            return asked * (1 - (1 - rate) ** self.attempts)

        if counts.tried < MIN_TRIED or expect(counts.filled / counts.tried) > 0.95 * asked:
            return None
        from scipy.stats import beta

        most = float(beta.ppf(0.975, counts.filled + 1, counts.tried - counts.filled))
        if expect(most) > 0.95 * asked:
            return None
        return max(counts.filled, round(expect(counts.filled / counts.tried)))

    def estimate_left(self) -> float | None:
        """Returns the seconds until the last request is settled; None while no speed is known.

        Each series is expected to go on costing as many tries a request as it did.
        """
        made, now = self._count_made(), self.clock()
        if self.first is None:
            return None
        began, before = self.first
        if made <= before or now <= began:
            return None
        return self._expect_tries() / ((made - before) / (now - began))

    def _expect_tries(self) -> float:
        whole = self.count_all()
        usual = self._cost(whole, 1.0)
        tries = 0.0
        for key, asked in self.asked.items():
            counts = self.count(key)
            left = max(0, asked - counts.filled - counts.given_up)
            tries += left * self._cost(counts, usual)
        return tries

    def _cost(self, counts: Counts, otherwise: float) -> float:
        """Tries a request: what those that are settled took, at most all that it may take."""
        if not counts.tried:
            return otherwise
        return min(self.attempts, counts.tried / max(1, counts.filled + counts.given_up))

    def _count_made(self) -> int:
        return self.made + sum(each.tried - each.recalled for each in self.at_work.values())

    def _note_first(self) -> None:
        if self.first is None:
            self.first = self.clock(), self._count_made()
