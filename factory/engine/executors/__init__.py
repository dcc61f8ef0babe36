"""Executors: one worker in this process, or Ray actors; both give the same rows."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from factory.data.records import Report
from factory.engine.drain import Drain
from factory.engine.executors.base import Notify, NoWatch, Outcome, Pool, Watch, start_worker
from factory.engine.executors.machines import Machines
from factory.engine.task import Order, Task
from factory.recipe.recipe import Workers


@contextlib.contextmanager
def open_pool(
    order: Order,
    began_with: str | None,
    say: Callable[[str], None],
    drain: Drain,
    machines: Machines,
) -> Iterator[Pool]:
    """Opens the workers of a run with the first task: a run with none asks for no device.

    Args:
        order: what the workers need; its recipe says how many, and where.
        began_with: digest of the worker description that the run folder was begun with.
        say: takes lines about workers that do not start.
        drain: whether the run is asked to stop.
        machines: of the run.
    """
    with contextlib.ExitStack() as stack:

        def start() -> Pool:
            if choose_executor(order.recipe.workers) == "local":
                from factory.engine.executors.local import LocalPool

                return LocalPool(order, began_with, drain)
            from factory.engine.executors.ray import RayPool

            return stack.enter_context(RayPool(order, began_with, say, drain, machines))

        yield _LatePool(start)


@dataclass(slots=True)
class _LatePool:
    """A pool that opens with its first task."""

    open: Callable[[], Pool]
    pool: Pool | None = None

    def fill(self, tasks: Iterator[Task], notify: Notify, report: Report) -> None:
        """Fills shards until none are left; see `Pool.fill`."""
        first = next(tasks, None)
        if first is not None:
            self.pool = self.pool or self.open()
            self.pool.fill(itertools.chain([first], tasks), notify, report)


def choose_executor(workers: Workers) -> str:
    """Returns `local` or `ray`: auto means Ray for several workers, GPUs, or a given address."""
    if workers.executor != "auto":
        return workers.executor
    if workers.address is not None or (isinstance(workers.count, int) and workers.count > 1):
        return "ray"
    if workers.count == 1:
        return "local"
    import torch

    return "ray" if torch.cuda.device_count() > 1 else "local"


__all__ = [
    "NoWatch",
    "Notify",
    "Outcome",
    "Pool",
    "Watch",
    "choose_executor",
    "open_pool",
    "start_worker",
]
