"""Ray actors: one per GPU or group of cores; a dead one is replaced, its shards are re-queued."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from factory.core.errors import InputError, RunBrokenError
from factory.data.records import Progress, Report
from factory.engine.drain import Drain
from factory.engine.executors.abreast import ABREAST, Answer
from factory.engine.executors.actor import RayWorker
from factory.engine.executors.base import Ledger, Notify, open_ledger
from factory.engine.executors.cluster import Cluster, kill_actors
from factory.engine.executors.machines import Machines
from factory.engine.executors.metrics import RunMetrics
from factory.engine.executors.pulse import Pulse, Waiting, get_answer, make_remote, wait_for
from factory.engine.executors.sizing import describe_ask, size_now, wait_for_nodes
from factory.engine.task import Order, Task
from factory.recipe.recipe import Workers

FIRST_BATCH = 7200.0
"""Seconds that models may take to load, and the first batch of all: no speed is known yet."""
MIN_BATCH = 600.0
"""Seconds that any later batch may take, at least."""
RESIZE = 10.0
"""Seconds between counts of the nodes, which an autoscaler adds and takes away."""
TIMES_LONGER = 20
"""How many times longer than the longest batch so far another may take."""


@dataclass(slots=True)
class _Actors:
    """The live actors and what each is at work on."""

    order: Order
    began_with: str | None
    workers: Workers
    gpus: float
    target: int = 0
    """How many there should be."""
    busy: dict[Any, dict[Any, Task]] = field(default_factory=dict)
    starting: dict[Any, Any] = field(default_factory=dict)
    owners: dict[Any, Any] = field(default_factory=dict)
    pulse: Pulse = field(default_factory=Pulse)
    moved: dict[Any, tuple[float, Any]] = field(default_factory=dict)
    """When an actor got on last, and how far it was."""
    longest: float | None = None
    """Seconds of the longest batch so far."""
    suspects: set[tuple[str, int]] = field(default_factory=set)
    """Shard and round of what several were at work on when their worker died: each has its own."""
    deaths: int = 0

    def complete(self) -> None:
        """Adds actors up to the target."""
        while len(self.busy) < self.target:
            self.add()

    def add(self) -> None:
        """Adds one, that begins to load its models when the cluster has room."""
        options: dict[str, Any] = {
            "num_cpus": self.workers.cpus,
            "num_gpus": self.gpus,
            "resources": dict(self.workers.resources),
            "max_restarts": 0,
            "max_concurrency": ABREAST,
        }
        environment = self.order.environment
        if environment is not None:
            options["runtime_env"] = environment
        threads = max(1, int(self.workers.cpus))
        actor = (
            make_remote(RayWorker).options(**options).remote(self.order, self.began_with, threads)
        )
        self.busy[actor] = {}
        self.starting[actor.start.remote()] = actor

    def send(self, actor: Any, task: Task) -> None:
        if not self.busy[actor]:
            self.moved[actor] = time.monotonic(), None
        ref = actor.run.remote(task)
        self.busy[actor][ref] = task
        self.owners[ref] = actor

    def take(self, ref: Any) -> Task:
        """Forgets a task that ended."""
        actor = self.owners.pop(ref)
        self.moved[actor] = time.monotonic(), None
        return self.busy[actor].pop(ref)

    def remove(self, actor: Any) -> list[Task]:
        """Forgets a dead actor, and makes sure that it is; returns the tasks that it leaves."""
        import ray

        left = self.busy.pop(actor, {})
        self.pulse.forget(actor)
        self.moved.pop(actor, None)
        for ref in left:
            self.owners.pop(ref, None)
        self.starting = {ref: each for ref, each in self.starting.items() if each is not actor}
        self.deaths += 1
        ray.kill(actor)
        return list(left.values())

    def hear(self, ref: Any, report: Report) -> None:
        """Takes how far an actor is."""
        actor, progress = self.pulse.hear(ref)
        now = time.monotonic()
        when, before = self.moved.setdefault(actor, (now, None))
        if progress is not None and progress != before and self._is_at_work(actor, progress):
            if progress.tried:
                self.longest = max(self.longest or 0.0, now - when)
            self.moved[actor] = now, progress
            report(progress)

    def list_hung(self) -> list[tuple[Any, str]]:
        """Actors that give no sign of life, or have not got on for far too long, and why."""
        hung = dict.fromkeys(self.pulse.list_silent(), "gave no sign of life")
        limit, loading = FIRST_BATCH, set(self.starting.values())
        if self.longest is not None:
            limit = max(MIN_BATCH, TIMES_LONGER * self.longest)
        for actor, (when, _) in self.moved.items():
            past = time.monotonic() - when
            if actor in loading and past > FIRST_BATCH:
                hung.setdefault(actor, f"loaded no model in {past:.0f} s")
            if self.busy[actor] and past > limit:
                hung.setdefault(actor, f"ended no batch of generator.batch_size in {past:.0f} s")
        return list(hung.items())

    def list_free(self) -> list[Any]:
        """Started actors with room, the idlest first."""
        loading = set(self.starting.values())
        started = [actor for actor in self.busy if actor not in loading]
        free = [actor for actor in started if self._has_room(actor)]
        return sorted(free, key=lambda actor: len(self.busy[actor]))

    def may_take(self, actor: Any, task: Task) -> bool:
        """Whether a task that may have ended its worker would be alone."""
        return not self.busy[actor] or not self._is_suspect(task)

    def _has_room(self, actor: Any) -> bool:
        at_work = self.busy[actor].values()
        return len(at_work) < ABREAST and not any(map(self._is_suspect, at_work))

    def _is_suspect(self, task: Task) -> bool:
        return (task.shard.id, task.round) in self.suspects

    def _is_at_work(self, actor: Any, progress: Progress) -> bool:
        """Whether a task that an actor told of has not ended meanwhile."""
        told = progress.shard, progress.round
        return any((task.shard, task.round) == told for task in self.busy[actor].values())


@dataclass(slots=True)
class RayPool:
    """Ray actors, which start with the first task, and Ray with them if it has not."""

    order: Order
    began_with: str | None
    say: Callable[[str], None]
    drain: Drain
    machines: Machines
    actors: _Actors | None = None
    cluster: Cluster | None = None
    waiting: Waiting | None = None
    metrics: RunMetrics | None = None
    sized: float = field(default_factory=time.monotonic)
    """When the nodes were counted last."""

    def fill(self, tasks: Iterator[Task], notify: Notify, report: Report) -> None:
        """Fills shards until none are left; see `Pool.fill`."""
        first = next(tasks, None)
        if first is None:
            return
        actors = self.actors = self.actors or self._start()
        assert self.metrics is not None
        ledger = open_ledger(self.order, self.metrics.watch(notify))
        round_ = _Round(actors, ledger, report, deque([first]))
        exhausted = False
        while not self.drain.is_asked:
            for actor in actors.list_free():
                if round_.again and not actors.may_take(actor, round_.again[0]):
                    continue
                task = round_.again.popleft() if round_.again else next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                actors.send(actor, task)
            idle = exhausted and not round_.again
            wanted = [*actors.owners, *(() if idle else actors.starting)]
            if not wanted:
                return
            if not idle:
                self._resize(actors)
            self._look(actors)
            for ref in wait_for(wanted, actors.pulse):
                round_.take(ref)
            for actor, why in actors.list_hung():
                round_.bury(actor, f"{why}, and was ended")
        self._drain(actors, round_)

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, kind: object, *others: object) -> None:
        """Ends the actors; Ray goes on for what comes after.

        After an error they end with Ray, which may be what broke and answers nothing.
        """
        if self.cluster is None or self.actors is None or self.metrics is None:
            return
        if kind is None or not self.cluster.is_ours:
            kill_actors(self.actors.busy)
            self.actors.busy.clear()
            self.metrics.look()

    def _drain(self, actors: _Actors, round_: "_Round") -> None:
        """Has the actors lay their tasks down, and takes what they commit meanwhile."""
        for actor in actors.busy:
            actor.stop.remote()
        while actors.owners:
            self._look(actors)
            for ref in wait_for([*actors.owners], actors.pulse):
                round_.take(ref)

    def _look(self, actors: _Actors) -> None:
        assert self.waiting is not None
        assert self.metrics is not None
        self.metrics.look()
        actors.pulse.ask(list(actors.busy))
        self.waiting.look(len(actors.pulse.heard), len(actors.busy) - len(actors.starting))

    def _resize(self, actors: _Actors) -> None:
        """Takes in nodes that joined meanwhile, where `workers.count` is auto."""
        now, workers = time.monotonic(), actors.workers
        if workers.count == "auto" and now - self.sized > RESIZE:
            self.sized = now
            with contextlib.suppress(InputError):  # none fits now: nodes may come back
                actors.target = size_now(workers)[0]
            actors.complete()

    def _start(self) -> _Actors:
        workers = self.order.recipe.workers
        self.cluster = self.machines.connect()
        count, gpus = wait_for_nodes(workers, self.cluster)
        ask = describe_ask(count, workers, gpus)
        self.waiting = Waiting(self.cluster, ask, workers.wait, self.say)
        actors = _Actors(self.order, self.began_with, workers, gpus, count)
        actors.complete()
        self.metrics = RunMetrics(
            self.order.recipe.name, lambda: len(actors.busy), lambda: len(actors.owners)
        )
        return actors


@dataclass(slots=True)
class _Round:
    """One filling of tasks: what ended is booked, what is left by the dead is done again."""

    actors: _Actors
    ledger: Ledger
    report: Report
    again: deque[Task]

    def take(self, ref: Any) -> None:
        """Takes an answer that is there; of an actor that was buried meanwhile, nothing."""
        from ray.exceptions import RayError

        actors = self.actors
        if ref in actors.pulse.asked:
            with contextlib.suppress(RayError):  # its tasks tell that it died
                actors.hear(ref, self.report)
            return
        actor = actors.owners.get(ref) or actors.starting.get(ref)
        if actor is None:
            return
        try:
            result = get_answer(ref)
        except RayError as error:
            self.bury(actor, " ".join(str(error).split()))
            return
        if ref in actors.starting:
            actors.starting.pop(ref)
            _check_start(*result)
        else:
            self._settle(actors.take(ref), result)

    def bury(self, actor: Any, why: str) -> None:
        """Replaces a dead actor and re-queues its tasks; one that was alone counts a try.

        Raises:
            RunBrokenError: workers keep dying.
        """
        actors = self.actors
        left = actors.remove(actor)
        if len(left) > 1:  # nobody knows which of them it was: from now on each has its worker
            actors.suspects.update((task.shard.id, task.round) for task in left)
            self.again.extend(left)
        elif left and self.ledger.record_failure(left[0], f"worker died: {why}"):
            self.again.append(left[0])
        limit = 3 + 2 * len(actors.busy) + self.ledger.done
        if actors.deaths > limit:
            raise RunBrokenError(f"workers keep dying ({actors.deaths} times); last: {why}")
        time.sleep(0.1)
        actors.complete()

    def _settle(self, task: Task, result: Answer) -> None:
        marker, error, is_fatal = result
        if is_fatal:
            raise RunBrokenError(error)
        if marker is not None:
            self.ledger.record_success(task, marker)
        elif error and self.ledger.record_failure(task, error):
            self.again.append(task)


def _check_start(error: str, exit_code: int) -> None:
    if exit_code == InputError.exit_code:
        raise InputError(error)
    if exit_code:
        raise RunBrokenError(f"a worker could not start: {error}")
