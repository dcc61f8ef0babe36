"""Heads of classifiers: numbers that turn image features into one logit for each class.

Computed with numpy and stored as safetensors: scikit-learn is needed for fitting only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from factory.core.late import NDArray, np

BLOCK = 256
"""Images compared at a time with all neighbours, so that memory stays small."""


@dataclass(frozen=True, slots=True)
class Head:
    """Standardisation and a linear map: logits = ((features - mean) / scale) coef' + intercept.

    Logistic regression, and prototypes too: -|z - c|^2 differs from 2 z c' - |c|^2 by what all
    classes share. `mean`, `scale` are (D,), `coef` is (C, D), `intercept` (C,), all float64.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def compute_logits(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Returns (N, C) float64 logits of (N, D) features."""
        scaled = (features.astype(np.float64) - self.mean) / self.scale
        return np.asarray(scaled @ self.coef.T + self.intercept)

    def to_bytes(self) -> bytes:
        """Returns the head as a safetensors file."""
        names = ("mean", "scale", "coef", "intercept")
        return _save({name: np.ascontiguousarray(getattr(self, name)) for name in names})


@dataclass(frozen=True, slots=True)
class NeighbourHead:
    """Votes of the k nearest real images, by Euclidean distance of standardised features.

    A vote counts 1 / (images of its class), so that classes weigh alike; with the votes scaled to
    sum to about k, p = (votes + 1 / C) / (sum + 1), and the logits are log p.

    Attributes:
        mean: (D,) float64.
        scale: (D,) float64.
        known: (M, D) float32, standardised features of the real images.
        labels: (M,) int64, their classes 0 .. C - 1.
        classes: C.
        neighbours: k.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    known: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: int
    neighbours: int

    def compute_logits(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Returns (N, C) float64 logits of (N, D) features."""
        votes = self.count_votes(features)
        chances = (votes + 1 / self.classes) / (votes.sum(axis=1, keepdims=True) + 1)
        return np.asarray(np.log(chances))

    def count_votes(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Returns (N, C) votes; equally large classes have plain counts that sum to k."""
        size = np.bincount(self.labels, minlength=self.classes)
        weight = len(self.labels) / (self.classes * np.maximum(size, 1))
        scaled = (features.astype(np.float64) - self.mean) / self.scale
        known = self.known.astype(np.float64)
        length = (known**2).sum(axis=1)
        votes = np.zeros((len(scaled), self.classes))
        for start in range(0, len(scaled), BLOCK):
            block = scaled[start : start + BLOCK]
            far = length - 2 * block @ known.T  # squared distance less what all share
            nearest = np.argsort(far, axis=1, kind="stable")[:, : self.neighbours]
            found = self.labels[nearest]
            for label in range(self.classes):
                votes[start : start + BLOCK, label] = weight[label] * (found == label).sum(axis=1)
        return votes

    def to_bytes(self) -> bytes:
        """Returns the head as a safetensors file."""
        names = ("mean", "scale", "known", "labels")
        return _save({name: np.ascontiguousarray(getattr(self, name)) for name in names})


def check_head(data: bytes, classes: int, dim: int, neighbours: int | None) -> None:
    """Checks a safetensors file of `to_bytes`, a linear head without a look at its numbers.

    Raises:
        ValueError: not a head, or of other shapes.
    """
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
        shapes = {name: tuple(tensor["shape"]) for name, tensor in found}
        fits = shapes["mean"] == (dim,) and shapes["scale"] == (dim,)
        if neighbours is None:
            fits = fits and shapes["coef"] == (classes, dim) and shapes["intercept"] == (classes,)
        else:
            known, labels = shapes["known"], shapes["labels"]
            fits = fits and known == (*labels, dim) and known[0] >= neighbours
            fits = fits and _has_classes(data, classes)
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    if not fits:
        raise ValueError(f"shapes {shapes} do not suit {classes} classes and {dim} features")


def _has_classes(data: bytes, classes: int) -> bool:
    from safetensors.numpy import load

    return bool(np.isin(load(data)["labels"], np.arange(classes)).all())


def parse_head(data: bytes, classes: int, dim: int, neighbours: int | None) -> Head | NeighbourHead:
    """Reads a safetensors file of `to_bytes`; `neighbours` is None for a linear head.

    Raises:
        ValueError: not a head, or of other shapes.
    """
    check_head(data, classes, dim, neighbours)
    from safetensors.numpy import load

    arrays = load(data)
    mean, scale = arrays["mean"], arrays["scale"]
    if neighbours is None:
        return Head(mean, scale, arrays["coef"], arrays["intercept"])
    return NeighbourHead(mean, scale, arrays["known"], arrays["labels"], classes, neighbours)


def compute_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N, C) probabilities that sum to 1 over the classes."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _save(arrays: dict[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save

    data: bytes = save(arrays)
    return data
