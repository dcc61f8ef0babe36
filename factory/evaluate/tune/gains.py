"""What a configuration adds on held-out shots, paired with real shots alone on the same folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import Interval
from factory.data.shots import LabelledSet
from factory.evaluate.cells import Cell
from factory.evaluate.fewshot.scores import resample, score_arm, to_interval
from factory.evaluate.fewshot.settings import PRIMARY
from factory.evaluate.tune.bed import Split


@dataclass(frozen=True)
class Gain:
    """Balanced accuracy on held-out shots, with 95 % intervals over shots and repeats.

    Attributes:
        gain: of real and synthetic images over real ones, paired.
        real: of these.
        made: of both.
        resampled: patients or slides, or images.
        repeats: that it rests on.
    """

    gain: Interval
    real: Interval
    made: Interval
    resampled: str
    repeats: int

    @property
    def is_above(self) -> bool:
        """Whether the interval of the gain lies above zero."""
        return self.gain.low > 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        parts = {"gain": self.gain, "real": self.real, "real+synthetic": self.made}
        return {name: each.to_dict() for name, each in parts.items()}


def measure_gain(
    shots: LabelledSet, repeats: Sequence[Sequence[Split]], cells: Mapping[Split, Cell]
) -> Gain | None:
    """Measures over the repeats of which every fold is there; None where there is none.

    Each shot is predicted once in a repeat, while it is held out. Shots (patients or slides, where
    all are known) and repeats are resampled, each apart from the other, as in the few-shot study:
    folds of one set share their shots, so that an interval over folds would be too narrow.
    """
    whole = [each for each in repeats if all(split in cells for split in each)]
    if not whole:
        return None
    labels = shots.index_labels(shots.class_names)
    resampling = resample(labels, [image.group for image in shots.images], len(whole))
    scored = []
    for arm in (0, 1):
        chances = [_join(each, cells, arm, len(labels)) for each in whole]
        scored.append(score_arm(chances, labels, resampling)[0][PRIMARY])
    real, made = scored
    gain, own, both = (to_interval(each) for each in (made - real, real, made))
    return Gain(gain, own, both, resampling.units, len(whole))


def measure_so_far(
    shots: LabelledSet, cells: Mapping[Split, Cell], splits: Sequence[Split]
) -> float:
    """Returns the mean gain of folds, by which trials that fall behind are stopped."""
    labels = shots.index_labels(shots.class_names)
    rows = np.concatenate([split.held for split in splits])
    right = [
        np.concatenate([cells[split].chances[arm].argmax(1) for split in splits]) == labels[rows]
        for arm in (0, 1)
    ]
    found = [
        [each[labels[rows] == name].mean() for name in np.unique(labels[rows])] for each in right
    ]
    return float(np.mean(found[1]) - np.mean(found[0]))


def _join(
    splits: Sequence[Split], cells: Mapping[Split, Cell], arm: int, count: int
) -> NDArray[np.float64]:
    """Returns (N, C) probabilities of all shots in a repeat."""
    classes = cells[splits[0]].chances.shape[2]
    found = np.full((count, classes), np.nan)
    for split in splits:
        found[list(split.held)] = cells[split].chances[arm]
    return found
