"""Ray actors that train the arms of a draw side by side: one for each GPU or share of cores."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import FactoryError, RunBrokenError
from factory.evaluate.fewshot.learners import TrainingSet
from factory.evaluate.fewshot.settings import StudySettings


@dataclass(frozen=True)
class Training:
    """One arm of one draw: what `Learner.fit_predict` takes besides the test images."""

    material: TrainingSet
    classes: int
    steps: int
    seed: int


def count_workers(asked: int | None, device: str) -> int:
    """Returns the actors to train with: those asked for, else one for each of several GPUs.

    Args:
        asked: None leaves it to `device`.
        device: of the study; a single one that is named, or the CPU, gets one process.
    """
    if asked is not None:
        return asked
    if device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


class TrainerPool:
    """Trains on `count` actors; Ray starts with the first training, and ends with `close`.

    Args:
        settings: of the study.
        folders: user catalog folders.
        count: actors.
        test: (M, S, S, 3) uint8 images to predict.
    """

    def __init__(
        self,
        settings: StudySettings,
        folders: Sequence[Path],
        count: int,
        test: NDArray[np.uint8],
    ) -> None:
        self.settings, self.folders, self.count, self.test = settings, folders, count, test
        self._actors: list[Any] = []
        self._owns_ray = False

    def train(
        self, trainings: Mapping[str, Training]
    ) -> Iterator[tuple[str, NDArray[np.float64], float]]:
        """Yields name, (M, C) probabilities and seconds of each training as it ends.

        Raises:
            EvaluationError: a training diverged.
            RunBrokenError: an actor died.
        """
        if not trainings:
            return
        import ray
        from ray.exceptions import RayActorError

        self._actors = self._actors or self._start()
        free, waiting = list(self._actors), list(trainings.items())
        busy: dict[Any, tuple[str, Any]] = {}
        while waiting or busy:
            while waiting and free:
                actor = free.pop()
                name, training = waiting.pop(0)
                busy[actor.train.remote(training)] = name, actor
            ready, _ = ray.wait(list(busy), num_returns=1)
            name, actor = busy.pop(ready[0])
            try:
                chances, seconds, error = ray.get(ready[0])
            except RayActorError as died:
                raise RunBrokenError(
                    f"{name}: a training worker died ({died}): run the same command with --out "
                    "again, with fewer --workers if memory ran out"
                ) from died
            if error is not None:
                raise error
            free.append(actor)
            yield name, chances, seconds

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
        test = ray.put(self.test)
        remote = ray.remote(_Trainer).options(num_cpus=cpus, num_gpus=gpus)
        return [
            remote.remote(self.settings, tuple(self.folders), cores, test)
            for _ in range(self.count)
        ]


class _Trainer:
    """What runs inside an actor; it builds its learner with its first training."""

    def __init__(
        self,
        settings: StudySettings,
        folders: Sequence[Path],
        threads: int,
        test: NDArray[np.uint8],
    ) -> None:
        self.settings, self.folders, self.threads, self.test = settings, folders, threads, test
        self._learner: Any = None

    def train(
        self, training: Training
    ) -> tuple[NDArray[np.float64] | None, float, FactoryError | None]:
        """Returns probabilities and seconds, or the error."""
        import torch

        from factory.catalog import load_catalogs
        from factory.evaluate.fewshot.learners import build_learner

        began = time.monotonic()
        try:
            if self._learner is None:
                torch.set_num_threads(self.threads)
                catalogs = load_catalogs(self.folders)
                self._learner = build_learner(self.settings, lambda line: None, catalogs)
            chances = self._learner.fit_predict(
                training.material, self.test, training.classes, training.steps, training.seed
            )
        except FactoryError as error:
            return None, 0.0, error
        return chances, time.monotonic() - began, None
