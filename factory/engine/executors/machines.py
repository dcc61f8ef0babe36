"""The machines of a run: this process, or a Ray that starts when it is first needed, once."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from factory.recipe.recipe import Workers

if TYPE_CHECKING:
    from factory.engine.executors.cluster import Cluster


class Machines:
    """Where a run is sampled and finalised; all of it shares one Ray.

    Args:
        workers: of the recipe.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._cluster: Future[Cluster] | None = None
        self._thread = ThreadPoolExecutor(1)
        """Ray's processes end with the thread that started them: it stays until all is closed."""

    def begin(self) -> None:
        """Has Ray start beside what is done meanwhile."""
        if self._cluster is None:
            self._cluster = self._thread.submit(self._start)

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
        """Ends Ray where it was started here, else leaves it."""
        started, self._cluster = self._cluster, None
        if started is not None and started.exception() is None:
            started.result().close()
        self._thread.shutdown(wait=False)

    def _start(self) -> "Cluster":
        from factory.engine.executors.cluster import start_ray

        return start_ray(self.workers.address)


@contextlib.contextmanager
def open_machines(workers: Workers) -> Iterator[Machines]:
    """Opens the machines of a run; Ray ends with them."""
    with contextlib.closing(Machines(workers)) as machines:
        yield machines


HERE = Machines(Workers(executor="local"))
"""This process alone."""
