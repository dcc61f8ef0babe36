"""Training the arms of a draw side by side, on the actors of a `WorkerPool`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.catalog import load_catalogs
from factory.evaluate.fewshot.learners import TrainingSet, build_learner
from factory.evaluate.fewshot.settings import StudySettings
from factory.evaluate.workers import WorkerPool

Trained = tuple[NDArray[np.float64], float]
"""(M, C) probabilities and seconds."""


@dataclass(frozen=True)
class Training:
    """One arm of one draw: what `Learner.fit_predict` takes besides the test images."""

    material: TrainingSet
    classes: int
    steps: int
    seed: int


class TrainerPool:
    """Trains on `count` actors, which start with the first training.

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
        self._pool = WorkerPool(partial(_Trainer, settings, tuple(folders), test), count)

    def train(self, trainings: Mapping[str, Training]) -> Iterator[tuple[str, Trained]]:
        """Yields name, probabilities and seconds of each training as it ends.

        Raises:
            EvaluationError: a training diverged.
            RunBrokenError: an actor died.
        """
        yield from self._pool.run(trainings)

    def close(self) -> None:
        """Ends the actors."""
        self._pool.close()


class _Trainer:
    """What an actor trains with."""

    def __init__(
        self, settings: StudySettings, folders: Sequence[Path], test: NDArray[np.uint8]
    ) -> None:
        self._learner = build_learner(settings, lambda line: None, load_catalogs(folders))
        self._test = test

    def __call__(self, training: Training) -> Trained:
        began = time.monotonic()
        chances = self._learner.fit_predict(
            training.material, self._test, training.classes, training.steps, training.seed
        )
        return chances, time.monotonic() - began
