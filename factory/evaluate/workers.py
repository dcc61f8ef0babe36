"""Ray actors that do parts of an evaluation side by side: one for each GPU or share of cores."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError, RunBrokenError
from factory.engine.executors.cluster import Cluster, end_actors, list_nodes, start_ray
from factory.engine.executors.pulse import Pulse, Waiting, get_answer, make_remote, wait_for

Do = Callable[[Any], Any]
"""What an actor does with a task."""
WAIT = 600.0
"""Seconds until a cluster without room for an actor ends the evaluation."""


def count_workers(asked: int | None, device: str) -> int:
    """Returns the actors to work with: those asked for, else one for each of several GPUs.

    Args:
        asked: None leaves it to `device`.
        device: of the evaluation; a single one that is named, or the CPU, gets one process.
    """
    if asked is not None:
        return asked
    if device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


class WorkerPool:
    """Hands tasks to actors; Ray starts with the first task, and ends with `close`.

    Args:
        build: makes, inside each actor and with its first task, what does the tasks.
        count: actors. More than there are GPUs or cores share them.
        say: takes lines about actors that do not start.
    """

    def __init__(self, build: Callable[[], Do], count: int, say: Callable[[str], None]) -> None:
        self.count = count
        self._build, self._say = build, say
        self._actors: list[Any] = []
        self._pulse = Pulse()
        self._cluster: Cluster | None = None
        self._waiting: Waiting | None = None

    def run(self, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yields name and result of each task as it ends.

        Raises:
            FactoryError: of a task.
            RunBrokenError: an actor died or hangs, or none could start.
        """
        if not tasks:
            return
        self._actors = self._actors or self._start()
        waiting = list(tasks.items())
        busy: dict[Any, tuple[str, Any]] = {}
        while waiting or busy:
            at_work = {actor for _, actor in busy.values()}
            for actor in self._pulse.heard:  # one without a place would keep its task for ever
                if waiting and actor not in at_work:
                    name, task = waiting.pop(0)
                    busy[actor.do.remote(task)] = name, actor
            self._look(busy)
            for ref in wait_for(list(busy), self._pulse):
                if ref in busy:
                    name, _ = busy.pop(ref)
                    with _explain_death(name):
                        result, error = get_answer(ref)
                    if error is not None:
                        raise error
                    yield name, result
                else:
                    with _explain_death("an evaluation"):
                        self._pulse.hear(ref)

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        if self._cluster is None:
            return
        end_actors(self._actors, self._cluster)
        self._actors, self._pulse, self._cluster = [], Pulse(), None

    def _look(self, busy: Mapping[Any, tuple[str, Any]]) -> None:
        assert self._waiting is not None
        self._pulse.ask(self._actors)
        self._waiting.look(len(self._pulse.heard), len(self._pulse.heard))
        silent = self._pulse.list_silent()
        for name, actor in busy.values():
            if actor in silent:
                raise RunBrokenError(_describe_death(name, "it gave no sign of life"))

    def _start(self) -> list[Any]:
        import ray

        self._cluster = start_ray()
        # More actors than GPUs or cores share them: one that waits for its own would wait for ever.
        nodes = list_nodes()
        gpus, cpus = (share_nodes(nodes, name, self.count) for name in ("GPU", "CPU"))
        ask = f"{self.count} processes with {cpus:.2g} CPUs and {gpus:.2g} GPUs each"
        self._waiting = Waiting(self._cluster, ask, WAIT, self._say)
        cores = max(1, (os.cpu_count() or 1) // self.count)
        remote = make_remote(_Worker).options(num_cpus=cpus, num_gpus=gpus)
        build = ray.put(self._build)
        return [remote.remote(build, cores, Path.cwd()) for _ in range(self.count)]


class _Worker:
    """What runs inside an actor, in the folder of the command: relative paths mean the same."""

    def __init__(self, build: Callable[[], Do], threads: int, folder: Path) -> None:
        os.chdir(folder)
        self._build, self._threads = build, threads
        self._do: Do | None = None

    def do(self, task: Any) -> tuple[Any, FactoryError | None]:
        """Returns the result, or the error that is ours."""
        import torch

        try:
            if self._do is None:
                torch.set_num_threads(self._threads)
                self._do = self._build()
            return self._do(task), None
        except FactoryError as error:
            return None, error

    def ping(self) -> None:
        """Answers while a task is done."""


@contextlib.contextmanager
def _explain_death(name: str) -> Iterator[None]:
    from ray.exceptions import RayActorError

    try:
        yield
    except RayActorError as died:
        raise RunBrokenError(_describe_death(name, str(died))) from died


def _describe_death(name: str, why: str) -> str:
    return (
        f"{name}: a worker died ({' '.join(why.split())}): run the same command again, with fewer "
        "workers if memory ran out; what --out holds is kept"
    )


def share_nodes(nodes: Sequence[Mapping[str, float]], name: str, count: int) -> float:
    """Returns what each of `count` actors takes, so that the nodes hold all of them."""
    whole = sum(int(node.get(name, 0.0)) for node in nodes)
    return 1.0 / math.ceil(count / whole) if whole else 0.0
