"""Jobs that need no model, spread over the machines of a run; each is a pure function, redone."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from factory.core.errors import FactoryError, RunBrokenError
from factory.engine.executors import choose_executor
from factory.engine.executors.machines import Machines

FEW = 2
"""Jobs up to which no other process is worth its start."""
DEATHS = 5
"""Times that the process of one job may die."""
AHEAD = 4
"""Jobs for each worker that may have ended before their turn."""
_LOOK = 5.0
"""Seconds between looks at the cluster."""

J = TypeVar("J")
R = TypeVar("R")


def spread_jobs(
    machines: Machines, work: Callable[[J], R], jobs: Iterable[J], beside: bool = False
) -> Iterator[R]:
    """Yields `work(job)` of each job, in their order: in this process, or as tasks of Ray.

    Args:
        machines: of the run.
        work: a function of a module, of which a second try gives the same.
        jobs: drawn as there is room for them, a few ahead, never listed.
        beside: whether workers that hold the CPUs may be there, and stand still meanwhile; then
            even few jobs are worth a process.

    Raises:
        FactoryError: what `work` raised.
        RunBrokenError: processes keep dying.
    """
    workers = machines.workers
    if workers.executor == "local":
        yield from map(work, jobs)
        return
    few = 0 if beside else FEW
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, few + 1))
    jobs = itertools.chain(first, jobs)
    if len(first) <= few or choose_executor(workers) == "local":
        yield from map(work, jobs)
        return
    yield from _spread(machines, work, jobs, 0.0 if beside else workers.cpus)


def _spread(
    machines: Machines, work: Callable[[J], R], jobs: Iterator[J], cpus: float
) -> Iterator[R]:
    machines.begin()
    drawn: deque[J] = deque()
    while not machines.is_up and len(drawn) < AHEAD and _draw(jobs, drawn):
        pass
    check = machines.connect().check
    import ray

    options = {"num_cpus": cpus, "max_retries": DEATHS, "scheduling_strategy": "SPREAD"}
    remote: Any = ray.remote(_attempt).options(**options)
    count = machines.workers.count
    limit = int(ray.cluster_resources().get("CPU", 1)) if count == "auto" else count
    sent: deque[Any] = deque()
    running: list[Any] = []
    while True:
        while len(running) < limit and len(sent) < AHEAD * limit and (drawn or _draw(jobs, drawn)):
            sent.append(remote.remote(work, drawn.popleft()))
            running.append(sent[-1])
        if not sent:
            return
        is_ahead = len(drawn) < limit and _draw(jobs, drawn)  # while others run, one at a time
        if running:
            _, running = ray.wait(running, timeout=0 if is_ahead else _LOOK)
        check()
        while sent and sent[0] not in running:
            yield _take(sent.popleft())


def _draw(jobs: Iterator[J], drawn: deque[J]) -> bool:
    """Draws one job more; returns whether there was one."""
    before = len(drawn)
    drawn.extend(itertools.islice(jobs, 1))
    return len(drawn) > before


def _take(ref: Any) -> Any:
    """Returns what a job that ended gave."""
    import ray
    from ray.exceptions import RayError

    try:
        found, error = ray.get(ref)
    except RayError as death:
        why = " ".join(str(death).split())
        raise RunBrokenError(f"the processes of a job keep dying: {why}") from death
    if error is not None:
        raise error
    return found


def _attempt(work: Callable[[J], R], job: J) -> tuple[R | None, FactoryError | None]:
    """Does a job; an error of ours comes back whole."""
    try:
        return work(job), None
    except FactoryError as error:
        return None, error
