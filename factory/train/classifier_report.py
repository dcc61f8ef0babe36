"""What is measured on a classifier's predictions, as plain data for its report."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


def weigh_classes(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Returns (N,) weights that sum to N and give every class present the same total."""
    count = np.bincount(labels, minlength=classes)
    present = int((count > 0).sum())
    return np.asarray(len(labels) / (present * count[labels]), np.float64)


def measure_predictions(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Measures predictions of a classifier that takes all classes for equally frequent.

    Args:
        probabilities: (N, C), rows summing to 1.
        labels: (N,) true class indices.
        class_names: C names.

    Returns:
        `images`, `accuracy`, `balanced_accuracy` and `per_class_recall` (over the classes present),
        `auroc` (binary, or the mean of one-against-rest; None with one class), `log_loss` and `ece`
        (with classes weighing alike), and `confusion` (rows: true class, columns: predicted).
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
    return {
        "images": len(labels),
        "accuracy": _round(np.diag(confusion).sum() / len(labels)),
        "balanced_accuracy": _round(recall.mean()),
        "per_class_recall": {n: _round(r) for n, r in zip(names, recall, strict=True)},
        "auroc": _measure_auroc(probabilities, labels),
        "log_loss": _round(-(weights * np.log(chosen)).sum() / weights.sum()),
        "ece": _round(measure_calibration_error(probabilities, labels, weights)),
        "confusion": confusion.tolist(),
    }


def measure_calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    """Returns the expected calibration error over 15 equal bins of the top probability.

    Guo et al. 2017 (arXiv 1706.04599), equation 3, with weighted images.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, weights=weights * (correct - confidence), minlength=BINS)
    return float(np.abs(gap).sum() / weights.sum())


def _measure_auroc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    present = np.unique(labels)
    if len(present) < 2:
        return None
    if probabilities.shape[1] == 2:
        return _round(roc_auc_score(labels, probabilities[:, 1]))
    return _round(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))


def _round(value: Any) -> float:
    return round(float(value), 4)
