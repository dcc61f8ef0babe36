"""One worker in this process."""

from collections.abc import Iterator
from dataclasses import dataclass

from factory.core.errors import RunBrokenError
from factory.data.records import Report
from factory.engine.drain import Drain
from factory.engine.executors.base import Notify, attempt_task, open_ledger, start_worker
from factory.engine.shard import Worker
from factory.engine.task import Order, Task


@dataclass(slots=True)
class LocalPool:
    """One worker in this process."""

    order: Order
    began_with: str | None
    drain: Drain
    worker: Worker | None = None

    def fill(self, tasks: Iterator[Task], notify: Notify, report: Report) -> None:
        """Fills shards until none are left; see `Pool.fill`."""
        ledger = open_ledger(self.order, notify)
        for task in tasks:
            if self.drain.is_asked:
                return
            self.worker = self.worker or start_worker(self.order, self.began_with)
            while True:
                marker, error, is_fatal = attempt_task(self.worker, task, report, self.drain)
                if is_fatal:
                    raise RunBrokenError(error)
                if marker is not None:
                    ledger.record_success(task, marker)
                    break
                if self.drain.is_asked or not ledger.record_failure(task, error):
                    break
