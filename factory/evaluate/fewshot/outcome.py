"""What one count of shots gave, before it is scored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.cells import Cell
from factory.evaluate.fewshot.labels import Judged
from factory.evaluate.fewshot.tuned import TunedOutcome


@dataclass
class Outcome:
    """All that one count of shots gave; lists are in order of the draws.

    Attributes:
        chances: arm -> (N, C) probabilities of the test images.
        curve: synthetic images of each class -> the same, for `real+synthetic`.
        images: arm -> class counts of real and synthetic images.
        left_out: arm -> why it is not measured.
        sources: where the synthetic images of each draw are.
        copies: near-copies of test images among the synthetic ones.
        data: which sets were measured, each once.
        judged: what a classifier of other real images takes the synthetic ones for.
        making: what the runs of each draw were asked for, gave and took; each once.
        tuned: what classifiers tuned inside the shots gave.
        steps_of: arm -> steps of training.
        seconds: arm -> seconds of training.
    """

    shots: int
    steps: int
    chances: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    curve: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    images: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    copies: list[dict[str, Any]] = field(default_factory=list)
    data: list[Mapping[str, Any]] = field(default_factory=list)
    judged: Judged = field(default_factory=dict)
    making: list[dict[str, Any]] = field(default_factory=list)
    tuned: TunedOutcome = field(default_factory=TunedOutcome)
    steps_of: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, arm: str, cell: Cell, images: dict[str, Any], steps: int) -> None:
        """Keeps what one arm gave in one draw."""
        self.chances.setdefault(arm, []).append(cell.chances)
        self.images.setdefault(arm, []).append(images)
        self.steps_of.setdefault(arm, []).append(steps)
        self.seconds[arm] = self.seconds.get(arm, 0.0) + cell.seconds
