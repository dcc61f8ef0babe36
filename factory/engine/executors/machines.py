"""The machines of a run: this process, or a Ray that starts when it is first needed, once."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.recipe.recipe import Workers

if TYPE_CHECKING:
    from factory.engine.executors.cluster import Cluster

PATIENCE = 10.0
"""Seconds that a Ray which nobody needs any more may yet take to start, before it is left to end
itself: a busy machine takes half a minute and more, the time from SIGTERM to SIGKILL elsewhere."""


class Machines:
    """Where a run is sampled and finalised; all of it shares one Ray.

    Args:
        workers: of the recipe.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._cluster: Future[Cluster] | None = None
        self._is_over = threading.Event()

    def begin(self) -> None:
        """Has Ray start beside what is done meanwhile."""
        if self._cluster is None:
            self._cluster = Future()
            starting = threading.Thread(target=self._start_aside, args=(self._cluster,))
            starting.daemon = True  # else Python waits for it before it exits
            starting.start()

    @property
    def is_up(self) -> bool:
        """Whether Ray has started, or failed to: `connect` does not wait."""
        return self._cluster is not None and self._cluster.done()

    def connect(self) -> "Cluster":
        """Returns Ray, which starts now if it has not.

        Raises:
            InputError: `workers.address` is none.
            RunBrokenError: nothing answers there, or Ray cannot start here.
        """
        if self._cluster is None:
            cluster = self._start()
            self._cluster = Future()
            self._cluster.set_result(cluster)
        return self._cluster.result()

    def close(self) -> None:
        """Ends Ray where it was started here, else leaves it; one that starts yet ends later."""
        started, self._cluster = self._cluster, None
        if started is None:
            return
        try:
            wait([started], PATIENCE)
        finally:
            if started.done():
                _end(started)
            else:
                started.add_done_callback(_end)
            self._is_over.set()

    def _start_aside(self, started: "Future[Cluster]") -> None:
        """Starts Ray, whose processes end with the thread that started them: it stays."""
        with _Told(started):
            started.set_result(self._start())
            self._is_over.wait()

    def _start(self) -> "Cluster":
        from factory.engine.executors.cluster import start_ray

        return start_ray(self.workers.address)


@dataclass(frozen=True, slots=True)
class _Told:
    """Has what is raised in a thread be raised where Ray is asked for."""

    started: "Future[Cluster]"

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self.started.set_exception(error)
        return error is not None


def _end(started: "Future[Cluster]") -> None:
    if started.exception() is None:
        started.result().close()


@contextlib.contextmanager
def open_machines(workers: Workers) -> Iterator[Machines]:
    """Opens the machines of a run; Ray ends with them."""
    with contextlib.closing(Machines(workers)) as machines:
        yield machines


HERE = Machines(Workers(executor="local"))
"""This process alone."""
