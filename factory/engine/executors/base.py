"""What executors share: outcomes, the pool protocol, the ledger of failures, one worker's start."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from factory.core.errors import RunBrokenError
from factory.core.warned import shorten_warnings
from factory.data.records import Progress, Report
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.shard import Worker
from factory.engine.task import Order, Task
from factory.recipe.recipe import Budget

MIN_SHARDS_FOR_RATE = 5
"""Quarantined shards below which the error rate does not stop a run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: committed, or failed for good."""

    task: Task
    marker: Marker | None
    error: str | None = None
    is_new: bool = True
    """False for what an earlier start had committed."""


Notify = Callable[[Outcome], None]
"""Called in the driver for every task that ended."""


@dataclass(slots=True)
class Ledger:
    """Counts what ended, quarantines what failed, and stops a run that mostly fails."""

    folder: RunFolder
    budget: Budget
    notify: Notify
    done: int = 0
    failed: int = 0
    tries: dict[str, int] = field(default_factory=dict)

    def record_success(self, task: Task, marker: Marker) -> None:
        """Books a committed task and forgets an older quarantine of it."""
        self.done += 1
        self.folder.release(task.shard, task.round)
        self.notify(Outcome(task, marker))

    def record_failure(self, task: Task, error: str) -> bool:
        """Returns whether the task should be tried again; else it is quarantined."""
        name = f"{task.shard.id}-r{task.round}"
        self.tries[name] = self.tries.get(name, 0) + 1
        if self.tries[name] <= self.budget.retries:
            return True
        self.failed += 1
        self.folder.quarantine(task.shard, task.round, error)
        self.notify(Outcome(task, None, error))
        rate = self.failed / (self.done + self.failed)
        if self.failed >= MIN_SHARDS_FOR_RATE and rate > self.budget.max_error_rate:
            raise RunBrokenError(
                f"{self.failed} of {self.done + self.failed} shards failed (budget.max_error_rate "
                f"{self.budget.max_error_rate}); last error: {error}. Mend it, then run the same "
                "command again"
            )
        return False


def open_ledger(order: Order, notify: Notify) -> Ledger:
    """Returns the ledger of one round of tasks."""
    return Ledger(RunFolder(order.run_url), order.recipe.budget, notify)


class Watch(Protocol):
    """Who looks on while a run is made, beside the outcomes of its tasks."""

    def report(self, progress: Progress) -> None:
        """Takes how far a task is."""
        ...

    def recount(self, filled: Mapping[str, int], goes_on: Mapping[str, int]) -> None:
        """Takes the requests of each series that have their image, and those that go on without."""
        ...


class NoWatch:
    """Nobody looks on."""

    def report(self, progress: Progress) -> None:
        """Takes nothing in."""

    def recount(self, filled: Mapping[str, int], goes_on: Mapping[str, int]) -> None:
        """Takes nothing in."""


class Pool(Protocol):
    """The workers of a run; they stay loaded from one round of tasks to the next."""

    def fill(self, tasks: Iterator[Task], notify: Notify, report: Report) -> None:
        """Fills shards until none are left; `tasks` are drawn one by one, never listed.

        Args:
            tasks: what to fill.
            notify: called for every task that ended.
            report: called with how far a task is, as its batches end; again from the start where
                it is tried again.

        Raises:
            InputError: the workers cannot start with what they were given.
            RunBrokenError: storage failed, workers keep dying, or too many shards failed.
        """
        ...


def start_worker(order: Order, began_with: str | None) -> Worker:
    """Loads a worker and checks that it continues what was begun.

    Raises:
        MismatchError: the model or the filters changed since.
    """
    shorten_warnings()
    worker = Worker(order)
    if began_with is not None and began_with != worker.digest:
        worker.check_same_content(worker.folder.read_worker(began_with))
    worker.folder.write_worker(worker.digest, worker.description)
    return worker
