"""Executors: the local loop and Ray actors, both giving the same rows."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from factory.errors import FactoryError, InputError, RunBrokenError, StoreError
from factory.recipe import Budget, Workers
from factory.shard import Order, Task, Worker
from factory.store.run_folder import Marker, RunFolder

MIN_SHARDS_FOR_RATE = 5
"""Quarantined shards below which the error rate does not stop a run."""

MAX_IN_FLIGHT = 2
"""Tasks sent to one actor at a time: one at work, one waiting (FACTS section 9)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: committed, or failed for good."""

    task: Task
    marker: Marker | None
    error: str | None = None


Notify = Callable[[Outcome], None]


@dataclass(slots=True)
class _Ledger:
    """Counts what ended, quarantines what failed, and stops a run that mostly fails."""

    folder: RunFolder
    budget: Budget
    notify: Notify
    done: int = 0
    failed: int = 0
    tries: dict[str, int] = field(default_factory=dict)

    def record_success(self, task: Task, marker: Marker) -> None:
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


def run_tasks(
    order: Order, tasks: Iterator[Task], workers: Workers, notify: Notify, began_with: str | None
) -> None:
    """Fills shards until none are left.

    Args:
        order: what the workers need.
        tasks: shards to fill; drawn one by one, never listed.
        workers: executor and its size.
        notify: called in the driver for every task that ended.
        began_with: digest of the worker description that the run folder was begun with.

    Raises:
        InputError: the workers cannot start with what they were given.
        RunBrokenError: storage failed, workers keep dying, or too many shards failed.
    """
    ledger = _Ledger(RunFolder(order.run_url), order.recipe.budget, notify)
    if choose_executor(workers) == "local":
        _run_local(order, tasks, ledger, began_with)
    else:
        _run_ray(order, tasks, workers, ledger, began_with)


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


# --- local ---------------------------------------------------------------------------------------


def start_worker(order: Order, began_with: str | None) -> Worker:
    """Loads a worker and checks that it continues what was begun.

    Raises:
        MismatchError: the model or the filters changed since.
    """
    worker = Worker(order)
    if began_with is not None and began_with != worker.digest:
        worker.check_same_content(worker.folder.read_worker(began_with))
    worker.folder.write_worker(worker.digest, worker.description)
    return worker


def attempt_task(worker: Worker, task: Task) -> tuple[Marker | None, str, bool]:
    """Runs one task at the shard edge: the one place where every exception is caught.

    Returns:
        The marker or None, the error text, and whether storage itself failed.
    """
    try:
        return worker.run(task), "", False
    except StoreError as error:
        return None, str(error), True
    except Exception as error:
        return None, f"{type(error).__name__}: {error}", False


def _run_local(
    order: Order, tasks: Iterator[Task], ledger: _Ledger, began_with: str | None
) -> None:
    worker: Worker | None = None
    for task in tasks:
        worker = worker or start_worker(order, began_with)
        while True:
            marker, error, is_fatal = attempt_task(worker, task)
            if is_fatal:
                raise RunBrokenError(error)
            if marker is not None:
                ledger.record_success(task, marker)
                break
            if not ledger.record_failure(task, error):
                break


# --- Ray -----------------------------------------------------------------------------------------


class RayWorker:
    """What runs inside a Ray actor; exceptions come back as text, never as a dead actor."""

    def __init__(self, order: Order, began_with: str | None, threads: int) -> None:
        self.order, self.began_with, self.threads = order, began_with, threads
        self.worker: Worker | None = None

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
        return attempt_task(self.worker, task)


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
    deaths: int = 0

    def add(self) -> None:
        import ray

        options = {"num_cpus": self.workers.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        threads = max(1, int(self.workers.cpus))
        actor = (
            ray.remote(RayWorker).options(**options).remote(self.order, self.began_with, threads)
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
        for ref in left:
            self.owners.pop(ref, None)
        self.starting = {ref: each for ref, each in self.starting.items() if each is not actor}
        self.deaths += 1
        return list(left.values())

    def list_free(self) -> list[Any]:
        """Started actors with room, the idlest first."""
        started = [actor for actor in self.busy if actor not in self.starting.values()]
        free = [actor for actor in started if len(self.busy[actor]) < MAX_IN_FLIGHT]
        return sorted(free, key=lambda actor: len(self.busy[actor]))


def _run_ray(
    order: Order,
    tasks: Iterator[Task],
    workers: Workers,
    ledger: _Ledger,
    began_with: str | None,
) -> None:
    import ray
    from ray.exceptions import RayActorError

    owns_ray = not ray.is_initialized()
    if owns_ray:
        ray.init(
            address=workers.address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        count, gpus = size_cluster(workers, ray.cluster_resources())
        actors = _Actors(order, began_with, workers, gpus)
        for _ in range(count):
            actors.add()
        again: deque[Task] = deque()
        source = iter(tasks)
        exhausted = False
        while True:
            for actor in actors.list_free():
                task = again.popleft() if again else next(source, None)
                if task is None:
                    exhausted = True
                    break
                actors.send(actor, task)
            waiting = [*actors.owners, *(() if exhausted and not again else actors.starting)]
            if not waiting:
                return
            ready, _ = ray.wait(waiting, num_returns=1)
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
    finally:
        if owns_ray:
            ray.shutdown()


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


def _settle(task: Task, result: Any, again: deque[Task], ledger: _Ledger) -> None:
    marker, error, is_fatal = result
    if is_fatal:
        raise RunBrokenError(error)
    if marker is not None:
        ledger.record_success(task, marker)
    elif ledger.record_failure(task, error):
        again.append(task)


def _bury(actors: _Actors, ref: Any, again: deque[Task], ledger: _Ledger, error: str) -> None:
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
