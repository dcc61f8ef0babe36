"""Fits the head of a classifier on frozen features, and chooses it by cross-validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.data.labelled import Fold
from factory.models.classifiers.heads import Head, NeighbourHead, compute_softmax
from factory.models.classifiers.model import HeadInfo
from factory.train.classifier.report import weigh_classes
from factory.train.classifier.settings import HeadKind
from factory.train.classifier.temperature import fit_temperature

Features = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Say = Callable[[str], None]

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of C, the inverse strength of the ridge penalty, from which cross-validation picks."""
NEIGHBOURS = (1, 3, 5, 9, 15, 25, 45)
FEW_SHOTS = 6
"""Images of the smallest class below which `auto` takes prototypes without comparing."""
MOST_KNOWN = 5000
"""Images above which `auto` leaves k-NN out: it keeps and compares the features of all of them."""
CLEARLY = 0.97
"""`auto` takes k-NN only where its log loss is under this share of the logistic head's."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A head fitted on all images, and the logits (N, C) that its kind gave held-out ones."""

    head: Head | NeighbourHead
    info: HeadInfo
    logits: NDArray[np.float64]
    log_loss: float
    report: dict[str, Any]


def choose_head(
    kind: HeadKind,
    features: Features,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
    say: Say,
) -> Choice:
    """Fits the head that is asked for, or the one that `auto` chooses.

    Args:
        kind: head, or `auto`: prototypes for fewer than `FEW_SHOTS` images of a class, else k-NN or
            logistic regression, by the log loss of calibrated held-out predictions.
        features: (N, D).
        labels: (N,) classes 0 .. C - 1, each present in the fitted rows of every fold.
        classes: C.
        folds: of cross-validation.
        say: progress.

    Returns:
        The choice; its report says which head, what was asked, and why.
    """
    fitters = {"logistic": _choose_logistic, "knn": _choose_neighbours, "prototype": _try_prototype}
    fewest = int(np.bincount(labels, minlength=classes).min())
    if kind != "auto":
        choice, why = fitters[kind](features, labels, classes, folds, say), "asked for"
    elif fewest < FEW_SHOTS:
        choice = _try_prototype(features, labels, classes, folds, say)
        why = f"{fewest} images of the smallest class, fewer than {FEW_SHOTS}: too few to compare"
    else:
        choice = _choose_logistic(features, labels, classes, folds, say)
        why = f"{len(labels):,} images, over {MOST_KNOWN:,}: k-NN would keep all their features"
        if len(labels) <= MOST_KNOWN:
            other = _choose_neighbours(features, labels, classes, folds, say)
            why = (
                f"log loss of calibrated held-out predictions: logistic {choice.log_loss:.4f}, "
                f"knn {other.log_loss:.4f} (taken if under {CLEARLY:g} of it)"
            )
            choice = other if other.log_loss < CLEARLY * choice.log_loss else choice
    told = {**choice.info.model_dump(exclude_none=True), "asked": kind, "why": why}
    return Choice(
        choice.head, choice.info, choice.logits, choice.log_loss, {**choice.report, "head": told}
    )


def fit_head(features: Features, labels: Labels, strength: float) -> Head:
    """Fits a standardised logistic regression in which classes weigh alike.

    Args:
        features: (N, D).
        labels: (N,) class indices 0 .. C - 1, each present.
        strength: C, the inverse of the ridge penalty.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = _standardise(features)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
    model.fit((features.astype(np.float64) - mean) / scale, labels)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # two classes: scikit-learn keeps the second one's logit only
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    return Head(mean, scale, coef, intercept)


def fit_prototypes(features: Features, labels: Labels) -> Head:
    """Fits one prototype for each class: the mean of its standardised features.

    The logits are -|z - c|^2 / sqrt(D) less what all classes share (Snell et al. 2017, arXiv
    1703.05175, equation 2; the temperature sets the scale), so that the head is linear.

    Args:
        features: (N, D).
        labels: (N,) class indices 0 .. C - 1, each present.
    """
    mean, scale = _standardise(features)
    scaled = (features.astype(np.float64) - mean) / scale
    centres = np.stack([scaled[labels == c].mean(axis=0) for c in range(int(labels.max()) + 1)])
    root = np.sqrt(features.shape[1])
    return Head(mean, scale, 2 * centres / root, -(centres**2).sum(axis=1) / root)


def fit_neighbours(features: Features, labels: Labels, neighbours: int) -> NeighbourHead:
    """Keeps the standardised features (N, D) of all images with their labels, for k-NN."""
    mean, scale = _standardise(features)
    scaled = ((features.astype(np.float64) - mean) / scale).astype(np.float32)
    return NeighbourHead(mean, scale, scaled, labels, int(labels.max()) + 1, neighbours)


def _standardise(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    return scaler.mean_, scaler.scale_


def _hold_out(
    fit: Callable[[Features, Labels], Head | NeighbourHead],
    features: Features,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
) -> tuple[NDArray[np.float64], float]:
    """Returns the logits of held-out images, and their log loss once a temperature is fitted."""
    logits = np.zeros((len(features), classes))
    for rows, held in folds:
        logits[held] = fit(features[rows], labels[rows]).compute_logits(features[held])
    chances = compute_softmax(logits / fit_temperature(logits, labels))
    chosen = np.clip(chances[np.arange(len(labels)), labels], 1e-12, 1.0)
    weights = weigh_classes(labels, classes)
    return logits, round(float(-(weights * np.log(chosen)).sum() / weights.sum()), 4)


def _choose_logistic(
    features: Features, labels: Labels, classes: int, folds: Sequence[Fold], say: Say
) -> Choice:
    """Picks C by the log loss of calibrated held-out predictions, then fits on all images."""
    tried: dict[float, tuple[NDArray[np.float64], float]] = {}
    for strength in STRENGTHS:

        def fit(known: Features, own: Labels, strength: float = strength) -> Head:
            return fit_head(known, own, strength)

        tried[strength] = _hold_out(fit, features, labels, classes, folds)
        loss = tried[strength][1]
        say(f"C {strength:g}: log loss {loss:.4f}")
        if loss > 1.05 * min(best for _, best in tried.values()):
            break  # the loss has one minimum in C, and larger C only cost more time
    chosen = min(tried, key=lambda strength: tried[strength][1])
    losses = {f"{strength:g}": loss for strength, (_, loss) in tried.items()}
    report = {"held_out_by": "cross-validation", "C": chosen, "log_loss_by_C": losses}
    head = fit_head(features, labels, chosen)
    return Choice(head, HeadInfo(kind="logistic"), *tried[chosen], report)


def _choose_neighbours(
    features: Features, labels: Labels, classes: int, folds: Sequence[Fold], say: Say
) -> Choice:
    """Picks k likewise, of those that are no more than the images of the smallest class."""
    fewest = min(int(np.bincount(labels[rows], minlength=classes).min()) for rows, _ in folds)
    tried: dict[int, tuple[NDArray[np.float64], float]] = {}
    for count in NEIGHBOURS:
        if count > max(1, fewest):
            break

        def fit(known: Features, own: Labels, count: int = count) -> NeighbourHead:
            return fit_neighbours(known, own, count)

        tried[count] = _hold_out(fit, features, labels, classes, folds)
        say(f"k {count}: log loss {tried[count][1]:.4f}")
    chosen = min(tried, key=lambda count: tried[count][1])
    losses = {str(count): loss for count, (_, loss) in tried.items()}
    report = {"held_out_by": "cross-validation", "k": chosen, "log_loss_by_k": losses}
    head = fit_neighbours(features, labels, chosen)
    return Choice(head, HeadInfo(kind="knn", neighbours=chosen), *tried[chosen], report)


def _try_prototype(
    features: Features, labels: Labels, classes: int, folds: Sequence[Fold], say: Say
) -> Choice:
    found = _hold_out(fit_prototypes, features, labels, classes, folds)
    say(f"prototypes: log loss {found[1]:.4f}")
    report = {"held_out_by": "cross-validation"}
    return Choice(fit_prototypes(features, labels), HeadInfo(kind="prototype"), *found, report)
