"""Ray actors that do parts of an evaluation side by side: one for each GPU or share of cores."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.errors import FactoryError, RunBrokenError

Do = Callable[[Any], Any]
"""What an actor does with a task."""


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
    """

    def __init__(self, build: Callable[[], Do], count: int) -> None:
        self.count = count
        self._build = build
        self._actors: list[Any] = []
        self._owns_ray = False

    def run(self, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yields name and result of each task as it ends.

        Raises:
            FactoryError: of a task.
            RunBrokenError: an actor died.
        """
        if not tasks:
            return
        import ray
        from ray.exceptions import RayActorError

        self._actors = self._actors or self._start()
        free, waiting = list(self._actors), list(tasks.items())
        busy: dict[Any, tuple[str, Any]] = {}
        while waiting or busy:
            while waiting and free:
                actor = free.pop()
                name, task = waiting.pop(0)
                busy[actor.do.remote(task)] = name, actor
            ready, _ = ray.wait(list(busy), num_returns=1)
            name, actor = busy.pop(ready[0])
            try:
                result, error = ray.get(ready[0])
            except RayActorError as died:
                raise RunBrokenError(
                    f"{name}: a worker died ({died}): run the same command again, with fewer "
                    "workers if memory ran out; what --out holds is kept"
                ) from died
            if error is not None:
                raise error
            free.append(actor)
            yield name, result

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        if not self._actors:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._owns_ray:
            ray.shutdown()

    def _start(self) -> list[Any]:
        import ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            self._owns_ray = True
        # More actors than GPUs or cores share them: one that waits for its own would wait for ever.
        has = ray.cluster_resources()
        gpus, cpus = (min(1.0, has.get(name, 0.0) / self.count) for name in ("GPU", "CPU"))
        cores = max(1, (os.cpu_count() or 1) // self.count)
        remote = ray.remote(_Worker).options(num_cpus=cpus, num_gpus=gpus)
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
