"""What is measured on a classifier's predictions, as plain data for its report."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import compute_wilson, find_quantile
from factory.core.stats.ranking import measure_auroc

BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017."""
Ends = tuple[float, float]


def weigh_classes(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Returns (N,) weights that sum to N and give every class present the same total."""
    count = np.bincount(labels, minlength=classes)
    present = int((count > 0).sum())
    return np.asarray(len(labels) / (present * count[labels]), np.float64)


def measure_predictions(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Measures predictions of a classifier that takes all classes for equally frequent.

    Args:
        probabilities: (N, C), rows summing to 1.
        labels: (N,) true class indices.
        class_names: C names.
        groups: (N,) patients or slides; intervals then allow for alike images of one group.

    Returns:
        `images`, `accuracy`, `balanced_accuracy` with its 95 % interval, `per_class_recall` (over
        the classes present), `per_class` (images, recall, its interval, precision with all classes
        weighing alike), `auroc` (binary, or the mean of one-against-rest; None with one class),
        `log_loss` and `ece` (with classes weighing alike), the `reliability` of each of the
        `ece_bins` that holds images, and `confusion` (rows: true class, columns: predicted).
    """
    classes = len(class_names)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    count = confusion.sum(axis=1)
    recall = np.diag(confusion)[count > 0] / count[count > 0]
    names = [name for name, size in zip(class_names, count, strict=True) if size]
    weights = weigh_classes(labels, classes)
    chosen = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1.0)
    interval, per_class = measure_balanced(predicted == labels, labels, groups)
    weighed = confusion / np.maximum(count, 1)[:, None]
    precision = np.diag(weighed) / np.maximum(weighed.sum(axis=0), 1e-12)
    return {
        "images": len(labels),
        "accuracy": _round(np.diag(confusion).sum() / len(labels)),
        "balanced_accuracy": _round(recall.mean()),
        "balanced_accuracy_interval": [_round(end) for end in interval],
        "per_class_recall": {n: _round(r) for n, r in zip(names, recall, strict=True)},
        "per_class": {
            class_names[label]: {
                "images": int(count[label]),
                "recall": _round(confusion[label, label] / count[label]),
                "recall_interval": [_round(end) for end in ends],
                "precision": _round(precision[label]),
            }
            for label, ends in per_class.items()
        },
        "auroc": _measure_auroc(probabilities, labels),
        "log_loss": _round(-(weights * np.log(chosen)).sum() / weights.sum()),
        "ece": _round(measure_calibration_error(probabilities, labels, weights)),
        "ece_bins": BINS,
        "reliability": measure_reliability(probabilities, labels, weights),
        "confusion": confusion.tolist(),
    }


# --- calibration ---------------------------------------------------------------------------------


def measure_calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    """Returns the expected calibration error over 15 equal bins of the top probability.

    Guo et al. 2017 (arXiv 1706.04599), equation 3, with weighted images.
    """
    confidence, correct, bins = _bin(probabilities, labels)
    gap = np.bincount(bins, weights=weights * (correct - confidence), minlength=BINS)
    return float(np.abs(gap).sum() / weights.sum())


def measure_reliability(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Returns, for each bin with images, how sure predictions are and how often they are right.

    The points of the reliability diagram of Guo et al. 2017 (figure 1), with weighted images;
    `weight` is the bin's share, so that the calibration error is sum of weight |accuracy -
    confidence|.
    """
    confidence, correct, bins = _bin(probabilities, labels)
    found = []
    for place in np.unique(bins):
        rows = bins == place
        weight = weights[rows]
        found.append(
            {
                "from": _round(place / BINS),
                "to": _round((place + 1) / BINS),
                "images": int(rows.sum()),
                "weight": _round(weight.sum() / weights.sum()),
                "confidence": _round(np.average(confidence[rows], weights=weight)),
                "accuracy": _round(np.average(correct[rows], weights=weight)),
            }
        )
    return found


def _bin(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    return confidence, correct, np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


# --- intervals -----------------------------------------------------------------------------------


def measure_balanced(
    correct: NDArray[np.bool_],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    level: float = 0.95,
) -> tuple[Ends, dict[int, Ends]]:
    """Returns the intervals of the balanced accuracy and of each present class's recall.

    Recalls have Wilson intervals, of the effective number of images where groups are known; their
    mean has the MOVER interval of these (Zou and Donner 2008, Statistics in Medicine 27).
    """
    recalls, below, above, ends = [], 0.0, 0.0, {}
    for label in np.unique(labels):
        rows = labels == label
        count = count_effective(correct[rows], None if groups is None else groups[rows], level)
        recall = float(correct[rows].mean())
        found = compute_wilson(recall, count, level)
        ends[int(label)] = found.low, found.high
        recalls.append(recall)
        below += (recall - found.low) ** 2
        above += (found.high - recall) ** 2
    mean, classes = float(np.mean(recalls)), len(recalls)
    low, high = mean - np.sqrt(below) / classes, mean + np.sqrt(above) / classes
    return (max(0.0, float(low)), min(1.0, float(high))), ends


def count_effective(
    correct: NDArray[np.bool_], groups: NDArray[np.int64] | None, level: float = 0.95
) -> float:
    """Returns how many independent images N images of some patients or slides are worth.

    N over the design effect (Rao and Scott 1992), times the squared ratio of the normal quantile to
    Student's for so few groups (Korn and Graubard 1998, Survey Methodology 24).
    """
    size, share = float(len(correct)), float(correct.mean())
    if groups is None:
        return size
    _, places = np.unique(groups, return_inverse=True)
    number = int(places.max()) + 1
    if number < 2:
        return size
    size *= (find_quantile(level) / find_quantile(level, number - 1)) ** 2
    if share in (0.0, 1.0):
        return size
    excess = np.bincount(places, weights=correct - share)
    variance = number / (number - 1) * float((excess**2).sum()) / len(correct) ** 2
    effect = variance / (share * (1 - share) / len(correct))
    return size / float(np.clip(effect, 1.0, len(correct)))


def find_confused(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    groups: NDArray[np.int64] | None,
) -> list[dict[str, Any]]:
    """Finds the pairs of classes that are not shown to differ, of three classes or more.

    For each pair: the images of both, each given the likelier of the two. The pair is listed where
    the 95 % interval of the balanced accuracy does not lie above one half.
    """
    found: list[dict[str, Any]] = []
    if len(class_names) < 3:
        return found
    for first in range(len(class_names)):
        for second in range(first + 1, len(class_names)):
            rows = np.flatnonzero((labels == first) | (labels == second))
            predicted = np.where(logits[rows, first] > logits[rows, second], first, second)
            correct = predicted == labels[rows]
            ends, _ = measure_balanced(
                correct, labels[rows], None if groups is None else groups[rows]
            )
            if ends[0] <= 0.5:
                recalls = [correct[labels[rows] == label].mean() for label in (first, second)]
                found.append(
                    {
                        "classes": [class_names[first], class_names[second]],
                        "balanced_accuracy": _round(np.mean(recalls)),
                        "interval": [_round(end) for end in ends],
                    }
                )
    return found


def _measure_auroc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    present = np.unique(labels)
    if len(present) < 2:
        return None
    asked, once = (1,) if probabilities.shape[1] == 2 else present, np.ones((1, len(labels)))
    return _round(np.mean([measure_auroc(probabilities[:, c], labels == c, once) for c in asked]))


def _round(value: Any) -> float:
    return round(float(value), 4)
