"""One worker in this process."""

from collections.abc import Iterator
from dataclasses import dataclass

from factory.core.errors import RunBrokenError
from factory.data.records import Report
from factory.engine.drain import Drain
from factory.engine.executors.abreast import Abreast
from factory.engine.executors.base import Notify, open_ledger, start_worker
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
        if self.drain.is_asked:
            return
        ledger = open_ledger(self.order, notify)
        self.worker = self.worker or start_worker(self.order, self.began_with)
        abreast = Abreast(self.worker, report, self.drain)

        def draw(is_busy: bool) -> Task | None:
            return None if self.drain.is_asked else next(tasks, None)

        for task, (marker, error, is_fatal) in abreast.fill(draw):
            if is_fatal:
                raise RunBrokenError(error)
            if marker is not None:
                ledger.record_success(task, marker)
            elif not self.drain.is_asked and ledger.record_failure(task, error):
                abreast.again.append(task)
