"""Calibration of a classifier's held-out logits, and thresholds for a wished precision."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import compute_wilson
from factory.data.records import SCORE_DECIMALS
from factory.models.classifiers.heads import compute_softmax
from factory.models.classifiers.model import Threshold
from factory.train.classifier.report import weigh_classes

PRECISIONS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Tabled for every class, besides those that a user wishes."""
ENOUGH = 10
"""Held-out images of each class from which probabilities count as calibrated. Ours: with n images a
recall of 0.5 is known to +-1 / sqrt(n), so that fewer say nothing about bins of 1/15."""


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Returns the temperature in [0.05, 20] of least log loss on held-out logits (N, C).

    The target of the true class is (n + 1) / (n + C) with n images of it, not 1, as in Platt 1999,
    so that a few perfectly separated shots do not end in probabilities of 0 and 1.
    """
    from scipy.optimize import minimize_scalar

    classes = logits.shape[1]
    weights = weigh_classes(labels, classes)
    size = np.bincount(labels, minlength=classes)[labels]
    targets = np.repeat(1.0 / (size + classes)[:, None], classes, axis=1)
    targets[np.arange(len(labels)), labels] *= size + 1

    def measure_loss(power: float) -> float:
        chances = np.maximum(compute_softmax(logits / np.exp(power)), 1e-300)
        return float(-(weights * (targets * np.log(chances)).sum(axis=1)).sum())

    found = minimize_scalar(measure_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def calibrate_across(
    logits: NDArray[np.float64], labels: NDArray[np.int64], parts: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Returns (N, C) probabilities; each part's temperature comes from the other parts.

    So the calibration error is that of images which the temperature has not seen either. With one
    part there are no others, and it is its own.

    Args:
        logits: (N, C), held out from fitting.
        labels: (N,) true classes.
        parts: rows 0 .. N - 1 in disjoint parts: the folds.
    """
    probabilities = np.zeros_like(logits)
    for part in parts:
        others = np.setdiff1d(np.arange(len(labels)), part)
        seen = part if len(others) == 0 else others
        temperature = fit_temperature(logits[seen], labels[seen])
        probabilities[part] = compute_softmax(logits[part] / temperature)
    return probabilities


def find_thresholds(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    wished: Iterable[float] = (),
) -> dict[str, tuple[Threshold, ...]]:
    """Finds, for each class, the least probability at which its images are right often enough.

    The precision at t is the share of the class among all held-out images whose probability of it
    is at least t, every class weighing alike. Rows that no t with `ENOUGH` passing images reaches
    are left out.

    Args:
        probabilities: (N, C), calibrated, of held-out images.
        labels: (N,) true classes.
        class_names: C names.
        wished: precisions to table besides `PRECISIONS`.
    """
    weights = weigh_classes(labels, len(class_names))
    table: dict[str, tuple[Threshold, ...]] = {}
    for label, name in enumerate(class_names):
        chances = np.round(probabilities[:, label], SCORE_DECIMALS)
        order = np.argsort(-chances, kind="stable")
        chances, right, weight = chances[order], labels[order] == label, weights[order]
        precision = np.round(np.cumsum(weight * right) / np.cumsum(weight), 9)  # 3 of 5 is 0.6
        ends = np.flatnonzero(np.append(chances[1:] != chances[:-1], True))
        rows = []
        for aim in sorted({*PRECISIONS, *wished}):
            reaching = ends[(precision[ends] >= aim) & (ends + 1 >= ENOUGH)]
            if len(reaching):
                last = int(reaching[-1])
                passing = weight[: last + 1]
                reached = compute_wilson(
                    float(precision[last]), float(passing.sum() ** 2 / (passing**2).sum())
                )
                rows.append(
                    Threshold(
                        precision=aim,
                        probability=float(chances[last]),
                        reached=round(reached.mean, 4),
                        low=round(reached.low, 4),
                        high=round(reached.high, 4),
                        recall=round(float(right[: last + 1].sum() / right.sum()), 4),
                        images=last + 1,
                    )
                )
        table[name] = tuple(rows)
    return table
