"""Ray actors: one per GPU or group of cores; a dead one is replaced, its shards are re-queued."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from factory.errors import FactoryError, InputError, RunBrokenError
from factory.executors.base import Ledger, Notify, attempt_task, open_ledger, start_worker
from factory.recipe import Workers
from factory.records import Progress, Report
from factory.shard import Order, Task, Worker
from factory.store.run_folder import Marker

MAX_IN_FLIGHT = 2
"""Tasks sent to one actor at a time: one at work, one waiting (FACTS section 9)."""


WATCH = "watch"
"""Concurrency group of an actor that answers while it works."""
POLL = 1.0
"""Seconds between looks at the actors."""


class RayWorker:
    """What runs inside a Ray actor; exceptions come back as text, never as a dead actor."""

    def __init__(self, order: Order, began_with: str | None, threads: int) -> None:
        self.order, self.began_with, self.threads = order, began_with, threads
        self.worker: Worker | None = None
        self.progress: Progress | None = None

    def start(self) -> tuple[str, int]:
        """Loads the models; returns the error text and exit code, or ("", 0)."""
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(self.threads)
        try:
            self.worker = start_worker(self.order, self.began_with)
        except FactoryError as error:
            return str(error), error.exit_code
        return "", 0

    def run(self, task: Task) -> tuple[Marker | None, str, bool]:
        """Fills one shard."""
        if self.worker is None:
            return None, "worker was not started", False
        return attempt_task(self.worker, task, self._keep)

    def ping(self) -> Progress | None:
        """Returns how far the task at work is; answers beside `run`, in a thread of its own."""
        return self.progress

    def _keep(self, progress: Progress) -> None:
        self.progress = progress


@dataclass(slots=True)
class _Actors:
    """The live actors and what each is at work on."""

    order: Order
    began_with: str | None
    workers: Workers
    gpus: float
    busy: dict[Any, dict[Any, Task]] = field(default_factory=dict)
    starting: dict[Any, Any] = field(default_factory=dict)
    owners: dict[Any, Any] = field(default_factory=dict)
    pings: dict[Any, Any] = field(default_factory=dict)
    deaths: int = 0

    def add(self) -> None:
        import ray

        options = {"num_cpus": self.workers.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        threads = max(1, int(self.workers.cpus))
        actor = (
            ray.remote(concurrency_groups={WATCH: 1})(RayWorker)
            .options(**options)
            .remote(self.order, self.began_with, threads)
        )
        self.busy[actor] = {}
        self.starting[actor.start.remote()] = actor

    def send(self, actor: Any, task: Task) -> None:
        ref = actor.run.remote(task)
        self.busy[actor][ref] = task
        self.owners[ref] = actor

    def take(self, ref: Any) -> tuple[Any, Task]:
        actor = self.owners.pop(ref)
        return actor, self.busy[actor].pop(ref)

    def remove(self, actor: Any) -> list[Task]:
        """Forgets a dead actor; returns the tasks that it leaves."""
        left = self.busy.pop(actor, {})
        self.pings = {ref: each for ref, each in self.pings.items() if each is not actor}
        for ref in left:
            self.owners.pop(ref, None)
        self.starting = {ref: each for ref, each in self.starting.items() if each is not actor}
        self.deaths += 1
        return list(left.values())

    def hear(self, ref: Any, report: Report) -> None:
        """Reports what an actor answered."""
        import ray
        from ray.exceptions import RayError

        actor = self.pings.pop(ref)
        with contextlib.suppress(RayError):  # a dead actor is found by its tasks
            progress = ray.get(ref)
            if progress is not None and self._is_at_work(actor, progress):
                report(progress)

    def ask(self) -> None:
        """Asks the actors that are at work how far they are."""
        asked = set(self.pings.values())
        for actor, tasks in self.busy.items():
            if tasks and actor not in asked:
                self.pings[actor.ping.options(concurrency_group=WATCH).remote()] = actor

    def _is_at_work(self, actor: Any, progress: Progress) -> bool:
        """Whether a task that an actor told of has not ended meanwhile."""
        told = progress.shard, progress.round
        return any((task.shard, task.round) == told for task in self.busy[actor].values())

    def list_free(self) -> list[Any]:
        """Started actors with room, the idlest first."""
        started = [actor for actor in self.busy if actor not in self.starting.values()]
        free = [actor for actor in started if len(self.busy[actor]) < MAX_IN_FLIGHT]
        return sorted(free, key=lambda actor: len(self.busy[actor]))


@dataclass(slots=True)
class RayPool:
    """Ray actors; Ray and they start with the first task."""

    order: Order
    workers: Workers
    began_with: str | None
    actors: _Actors | None = None
    owns_ray: bool = False

    def fill(self, tasks: Iterator[Task], notify: Notify, report: Report) -> None:
        """Fills shards until none are left; see `Pool.fill`."""
        first = next(tasks, None)
        if first is None:
            return
        import ray
        from ray.exceptions import RayActorError

        actors = self.actors = self.actors or self._start()
        ledger = open_ledger(self.order, notify)
        again: deque[Task] = deque([first])
        exhausted, looked = False, time.monotonic()
        while True:
            for actor in actors.list_free():
                task = again.popleft() if again else next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                actors.send(actor, task)
            waiting = [*actors.owners, *(() if exhausted and not again else actors.starting)]
            if not waiting:
                return
            ready, _ = ray.wait([*actors.pings, *waiting], num_returns=1, timeout=POLL)
            if time.monotonic() - looked >= POLL:
                looked = time.monotonic()
                actors.ask()
            if not ready:
                continue
            if ready[0] in actors.pings:
                actors.hear(ready[0], report)
                continue
            try:
                result = ray.get(ready[0])
            except RayActorError as error:
                _bury(actors, ready[0], again, ledger, str(error))
                continue
            if ready[0] in actors.starting:
                actors.starting.pop(ready[0])
                _check_start(*result)
            else:
                _, task = actors.take(ready[0])
                _settle(task, result, again, ledger)

    def close(self) -> None:
        """Ends the actors, and Ray where it was started here."""
        if self.owns_ray:
            import ray

            ray.shutdown()

    def _start(self) -> _Actors:
        import ray

        self.owns_ray = not ray.is_initialized()
        if self.owns_ray:
            ray.init(
                address=self.workers.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        count, gpus = size_cluster(self.workers, ray.cluster_resources())
        actors = _Actors(self.order, self.began_with, self.workers, gpus)
        for _ in range(count):
            actors.add()
        return actors


def size_cluster(workers: Workers, resources: dict[str, float]) -> tuple[int, float]:
    """Returns the number of actors and the GPUs of each.

    Raises:
        InputError: more workers than a fixed cluster can hold.
    """
    total_gpus, total_cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    gpus = (1.0 if total_gpus else 0.0) if workers.gpus == "auto" else float(workers.gpus)
    fits = int(total_cpus / workers.cpus)
    if gpus:
        fits = min(fits, int(total_gpus / gpus))
    if workers.count == "auto":
        if fits < 1:
            raise InputError(
                f"workers: the cluster has {total_cpus:g} CPUs and {total_gpus:g} GPUs, too few "
                f"for one worker with {workers.cpus:g} CPUs and {gpus:g} GPUs: lower workers.cpus "
                "or workers.gpus"
            )
        return fits, gpus
    if workers.count > fits and workers.address is None:
        raise InputError(
            f"workers.count: {workers.count} workers with {workers.cpus:g} CPUs and {gpus:g} GPUs "
            f"do not fit: this machine holds {fits}: lower workers.count or workers.cpus"
        )
    return workers.count, gpus


def _check_start(error: str, exit_code: int) -> None:
    if exit_code == InputError.exit_code:
        raise InputError(error)
    if exit_code:
        raise RunBrokenError(f"a worker could not start: {error}")


def _settle(task: Task, result: Any, again: deque[Task], ledger: Ledger) -> None:
    marker, error, is_fatal = result
    if is_fatal:
        raise RunBrokenError(error)
    if marker is not None:
        ledger.record_success(task, marker)
    elif ledger.record_failure(task, error):
        again.append(task)


def _bury(actors: _Actors, ref: Any, again: deque[Task], ledger: Ledger, error: str) -> None:
    """Replaces a dead actor and re-queues its tasks; the one at work counts a try."""
    actor = actors.owners.get(ref) or actors.starting.get(ref)
    left = actors.remove(actor)
    for position, task in enumerate(left):
        if position > 0 or ledger.record_failure(task, f"worker died: {error}"):
            again.append(task)
    limit = 3 + 2 * len(actors.busy) + ledger.done
    if actors.deaths > limit:
        raise RunBrokenError(f"workers keep dying ({actors.deaths} times); last: {error}")
    time.sleep(0.1)
    actors.add()
