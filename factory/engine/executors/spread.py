"""Jobs that need no model, spread over the machines of a run; each is a pure function, redone."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from factory.core.errors import FactoryError, RunBrokenError
from factory.engine.executors import choose_executor
from factory.recipe.recipe import Workers

HERE = 2
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
    workers: Workers, work: Callable[[J], R], jobs: Iterable[J], beside: bool = False
) -> Iterator[R]:
    """Yields `work(job)` of each job, in their order: in this process, or as tasks of Ray.

    Args:
        workers: of the recipe.
        work: a function of a module, of which a second try gives the same.
        jobs: drawn as there is room for them, never listed.
        beside: whether workers that hold the CPUs may be there, and stand still meanwhile.

    Raises:
        FactoryError: what `work` raised.
        RunBrokenError: processes keep dying.
    """
    if workers.executor == "local":
        yield from map(work, jobs)
        return
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, HERE + 1))
    jobs = itertools.chain(first, jobs)
    if len(first) <= HERE or choose_executor(workers) == "local":
        yield from map(work, jobs)
        return
    from factory.engine.executors.cluster import start_ray

    cluster = start_ray(workers.address)
    try:
        yield from _spread(workers, work, jobs, cluster.check, 0.0 if beside else workers.cpus)
    finally:
        cluster.close()


def _spread(
    workers: Workers,
    work: Callable[[J], R],
    jobs: Iterator[J],
    check: Callable[[], None],
    cpus: float,
) -> Iterator[R]:
    import ray

    options = {"num_cpus": cpus, "max_retries": DEATHS, "scheduling_strategy": "SPREAD"}
    remote: Any = ray.remote(_attempt).options(**options)
    count = workers.count
    limit = int(ray.cluster_resources().get("CPU", 1)) if count == "auto" else count
    sent: deque[Any] = deque()
    running: list[Any] = []
    while True:
        room = min(limit - len(running), AHEAD * limit - len(sent))
        drawn = [remote.remote(work, job) for job in itertools.islice(jobs, max(room, 0))]
        sent += drawn
        running += drawn
        if not sent:
            return
        if running:
            _, running = ray.wait(running, timeout=_LOOK)
        check()
        while sent and sent[0] not in running:
            yield _take(sent.popleft())


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
