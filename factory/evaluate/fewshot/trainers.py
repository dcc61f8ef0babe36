"""What the actors of a `WorkerPool` do in a study: train an arm of a draw."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.evaluate.fewshot.learners import TrainingSet, build_learner
from factory.evaluate.fewshot.settings import StudySettings

Trained = tuple[NDArray[np.float64], float]
"""(M, C) probabilities and seconds."""


@dataclass(frozen=True)
class Training:
    """One arm of one draw: what `Learner.fit_predict` takes besides the test images."""

    material: TrainingSet
    classes: int
    steps: int
    seed: int


class Trainer:
    """What an actor trains with.

    Args:
        settings: of the study.
        catalogs: where its encoder is looked up.
        test: (M, S, S, 3) uint8 images to predict.
    """

    def __init__(
        self, settings: StudySettings, catalogs: Catalogs, test: NDArray[np.uint8]
    ) -> None:
        self._learner = build_learner(settings, lambda line: None, catalogs)
        self._test = test

    def __call__(self, training: Training) -> Trained:
        """Trains and predicts.

        Raises:
            EvaluationError: the training diverged.
        """
        began = time.monotonic()
        chances = self._learner.fit_predict(
            training.material, self._test, training.classes, training.steps, training.seed
        )
        return chances, time.monotonic() - began
