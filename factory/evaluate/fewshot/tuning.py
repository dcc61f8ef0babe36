"""Tuning inside the shots: cross-validation in which patients stay whole and no test is seen."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import derive_seed
from factory.data.shots import LabelledSet
from factory.data.varied import Varied
from factory.evaluate.fewshot.learners import TrainingSet
from factory.evaluate.fewshot.tuners import Options, Plan, Seen, Tuner
from factory.train.classifier.temperature import fit_temperature

LEAST_CHANCE = 1e-6
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of the shots to train on, and to hold out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The options that a classifier chose, and what they reached on held-out shots."""

    options: Options
    log_loss: float | None
    balanced_accuracy: float | None

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {
            **self.options.describe(),
            "held_out_log_loss": self.log_loss,
            "held_out_balanced_accuracy": self.balanced_accuracy,
        }


def cut_folds(shots: LabelledSet, class_names: Sequence[str], count: int, seed: int) -> list[Fold]:
    """Cuts shots into folds by class; patients or slides, where known, are never divided.

    Returns:
        Those folds in whose training part every class is; none where there are too few shots. The
        order of the shots does not matter.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.argsort(np.array(shots.sha256s))
    labels = shots.index_labels(class_names)[order]
    groups = np.array([shots.images[row].group or shots.sha256s[row] for row in order])
    most = min(count, len(np.unique(groups)), int(np.bincount(labels).max()))
    if most < 2:
        return []
    draw = derive_seed(seed, "fewshot", "folds") % 2**32
    cut = StratifiedGroupKFold(most, shuffle=True, random_state=draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer shots than folds
        found = list(cut.split(labels, labels, groups))
    whole = len(class_names)
    return [
        (order[known], order[held])
        for known, held in found
        if len(held) and len(np.unique(labels[known])) == whole
    ]


def find_shots(
    made: LabelledSet, varied: Mapping[str, Varied | None], shots: LabelledSet
) -> NDArray[np.int64]:
    """Returns (N, K) rows of the shots that each synthetic image comes from; -1 fills up.

    Those are the image that it varies, and those that its class comes from where they are others.
    """
    files = {sha: row for row, sha in enumerate(shots.sha256s)}
    pixels = dict[str, int]()
    if any(each is not None for each in varied.values()):
        pixels = {sha: row for row, sha in enumerate(shots.pixels_sha256s)}
    found = []
    for sha in made.sha256s:
        shot = varied.get(sha)
        sources = () if shot is None else (shot, *shot.shots)
        rows = (files.get(s.sha256, pixels.get(s.pixels_sha256 or "", -1)) for s in sources)
        found.append(sorted({row for row in rows if row >= 0}))
    width = max((len(rows) for rows in found), default=0) or 1
    return np.array([rows + [-1] * (width - len(rows)) for rows in found], np.int64).reshape(
        -1, width
    )


@dataclass
class Tuning:
    """Cross-validation of one draw.

    Attributes:
        train: the shots, then synthetic images.
        shot_of: (N, K) rows of the shots that each image is or comes from, filled up with -1: one
            that names none stays in all folds.
        folds: of the shots.
        plan: of the final training; those of folds take as many steps.
    """

    train: TrainingSet
    shot_of: NDArray[np.int64]
    folds: Sequence[Fold]
    plan: Plan
    _known: dict[tuple[str, Options], Choice] = field(default_factory=dict)

    def choose(self, tuner: Tuner, augments: bool) -> Choice:
        """Returns the options of least held-out log loss; of equal ones the plainest."""
        mixes = bool(self.train.is_synthetic.any())
        options = tuner.list_options(augments, mixes)
        if not self.folds:
            return Choice(options[0], None, None)
        tried = [self._try(tuner, each) for each in options]
        return min(tried, key=lambda each: each.log_loss or 0.0)

    def _try(self, tuner: Tuner, options: Options) -> Choice:
        key = (tuner.name, options)
        if key not in self._known:
            chances = [self._hold_out(tuner, options, fold) for fold in self.folds]
            rows = np.concatenate([held for _, held in self.folds])
            scored = score_held_out(np.concatenate(chances), self.train.labels[rows])
            self._known[key] = Choice(options, *scored)
        return self._known[key]

    def _hold_out(self, tuner: Tuner, options: Options, fold: Fold) -> NDArray[np.float64]:
        """Trains without the held-out shots, and without all that varies one of them."""
        _, held = fold
        rows = np.flatnonzero(~np.isin(self.shot_of, held).any(1))
        seen = Seen(self.train.pixels[held], tuple(self.train.sha256s[row] for row in held))
        part = self.train.take(rows, "none")
        return tuner.fit_predict(part, options, seen, self.plan)


def score_held_out(chances: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Returns log loss and balanced accuracy of held-out predictions, classes weighing alike.

    The log loss is that after a temperature is fitted, so that classifiers can be compared whose
    probabilities are too bold or too shy.
    """
    logits = np.log(np.maximum(chances, LEAST_CHANCE))
    scaled = logits / fit_temperature(logits, labels)
    scaled -= scaled.max(1, keepdims=True)
    lost = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]
    right = chances.argmax(1) == labels
    names = np.unique(labels)
    means = [np.mean([values[labels == name].mean() for name in names]) for values in (lost, right)]
    return round(float(means[0]), 6), round(float(means[1]), 6)
