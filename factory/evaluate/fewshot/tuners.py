"""Classifiers that are tuned inside the shots, each with the options that it chooses from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.evaluate.fewshot.augment import STRENGTHS, Strength
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.learners import LinearLearner, NetworkLearner, Say, TrainingSet
from factory.evaluate.fewshot.settings import Mix, StudySettings
from factory.models.classifiers.heads import compute_softmax
from factory.train.classifier.heads import fit_head, fit_neighbours, fit_prototypes

VIEWS = 4
"""Augmented views of an image that a head learns from, beside the image as it is."""
VALUES: Mapping[str, tuple[float, ...]] = {
    "logistic": (0.001, 0.01, 0.1, 1.0),
    "prototype": (0.0,),
    "knn": (1, 3, 5, 9),
}
"""Of a head: C, the inverse strength of the ridge penalty; nothing; k."""
MIXES: tuple[Mix, ...] = ("pooled", "balanced")
"""Synthetic images as many as there are, or weighing as much as the real ones."""


@dataclass(frozen=True, slots=True)
class Options:
    """One way to train: augmentation, weight of synthetic images, and a head's own number."""

    strength: Strength
    mix: Mix
    value: float | None = None

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data."""
        own = {} if self.value is None else {"value": self.value}
        return {"augment": self.strength, "mix": self.mix, **own}


@dataclass(frozen=True)
class Seen:
    """Images to predict: pixels (M, S, S, 3) uint8 RGB, and the hashes of their bytes."""

    pixels: NDArray[np.uint8]
    sha256s: tuple[str, ...]


class Tuner(Protocol):
    """Trains with given options, and predicts."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Returns what of it shapes the results, but for the options."""
        ...

    def list_options(self, augments: bool, mixes: bool) -> list[Options]:
        """Returns what is chosen from, the plainest first.

        Args:
            augments: whether the arm may have classical augmentation; none is an option, too.
            mixes: whether it has synthetic images.
        """
        ...

    def fit_predict(
        self, train: TrainingSet, options: Options, seen: Seen, plan: "Plan"
    ) -> NDArray[np.float64]:
        """Returns (M, classes) probabilities."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What all trainings of an arm share: classes, steps of gradient descent, seed of the draw."""

    classes: int
    steps: int
    seed: int


class HeadTuner:
    """Logistic regression, prototypes or k-NN on features of a frozen encoder."""

    def __init__(
        self, kind: str, bank: FeatureBank, encoder: str, mixes: Sequence[Mix] = MIXES
    ) -> None:
        self.kind, self.bank, self.mixes = kind, bank, mixes
        self.name = f"{kind} on {encoder}"

    def describe(self) -> dict[str, Any]:
        """Returns the kind, the encoder and the options."""
        return {
            "kind": self.kind,
            "encoder": self.bank.encoder.describe(),
            "views": VIEWS,
            "values": list(VALUES[self.kind]),
        }

    def list_options(self, augments: bool, mixes: bool) -> list[Options]:
        """Returns all combinations."""
        given = (augments, self.mixes if mixes else MIXES[:1], VALUES[self.kind])
        return [Options(*each) for each in _combine(*given)]

    def fit_predict(
        self, train: TrainingSet, options: Options, seen: Seen, plan: Plan
    ) -> NDArray[np.float64]:
        """Fits on features of the images and of their views."""
        rows = _level(train.is_synthetic) if options.mix == "balanced" else np.arange(len(train))
        views = [0] if options.strength == "none" else range(1 + VIEWS)
        features = np.concatenate(
            [
                self.bank.encode(train.pixels, train.sha256s, view, options.strength)[rows]
                for view in views
            ]
        )
        labels, value = np.tile(train.labels[rows], len(views)), options.value or 0.0
        if self.kind == "logistic":
            head: Any = fit_head(features, labels, value)
        elif self.kind == "knn":
            head = fit_neighbours(features, labels, min(int(value), len(labels)))
        else:
            head = fit_prototypes(features, labels)
        known = self.bank.encode(seen.pixels, seen.sha256s)
        chances: NDArray[np.float64] = compute_softmax(head.compute_logits(known))
        return chances


class DescentTuner:
    """A head on a frozen encoder, or a whole network, by the SGD of the study's other arms."""

    def __init__(
        self,
        settings: StudySettings,
        say: Say,
        bank: FeatureBank | None,
        encoder: str,
        mixes: Sequence[Mix] = MIXES,
    ) -> None:
        self.name, self.mixes = f"sgd on {encoder}" if bank is not None else settings.model, mixes
        every = dict.fromkeys((*MIXES, *mixes))
        self._learners = {mix: _build(settings, say, bank, encoder, mix) for mix in every}

    def describe(self) -> dict[str, Any]:
        """Returns how it is trained, and from what."""
        learner = self._learners["pooled"]
        return {**learner.settings.describe_training(), **learner.describe()}

    def list_options(self, augments: bool, mixes: bool) -> list[Options]:
        """Returns all combinations."""
        given = (augments, self.mixes if mixes else MIXES[:1], (None,))
        return [Options(*each) for each in _combine(*given)]

    def fit_predict(
        self, train: TrainingSet, options: Options, seen: Seen, plan: Plan
    ) -> NDArray[np.float64]:
        """Trains for the steps of the plan."""
        chosen = train.take(np.arange(len(train)), options.strength)
        learner = self._learners[options.mix]
        given = (chosen, seen.pixels, plan.classes, plan.steps, plan.seed)
        return learner.fit_predict(*given)


def build_banks(settings: StudySettings, say: Say, catalogs: Catalogs) -> dict[str, FeatureBank]:
    """Loads the encoders whose features are tuned on.

    Raises:
        InputError: no such encoder, or device.
    """
    from factory.models.encoders import load_encoder

    return {
        spec: FeatureBank(load_encoder(spec, device=settings.device, catalogs=catalogs), say)
        for spec in settings.spaces
    }


def build_tuners(
    settings: StudySettings,
    say: Say,
    banks: Mapping[str, FeatureBank],
    mixes: Sequence[Mix] = MIXES,
) -> list[Tuner]:
    """Builds what `--tune` names: each head on each encoder, and the network.

    Args:
        settings: of the study.
        say: called with lines of progress.
        banks: encoder -> its features.
        mixes: that arms with synthetic images choose from; heads without gradient descent know
            MIXES alone, and are left out of others.

    Raises:
        InputError: no such model or weights.
    """
    found: list[Tuner] = []
    of_heads = [mix for mix in mixes if mix in MIXES]
    for spec, bank in banks.items():
        for kind in settings.tune:
            if kind in VALUES and of_heads:
                found.append(HeadTuner(kind, bank, spec, of_heads))
            elif kind == "sgd":
                found.append(DescentTuner(settings, say, bank, spec, mixes))
    if "network" in settings.tune:
        found.append(DescentTuner(settings, say, None, "", mixes))
    return found


def _build(
    settings: StudySettings, say: Say, bank: FeatureBank | None, encoder: str, mix: Mix
) -> LinearLearner | NetworkLearner:
    """Builds a learner of the study's kind; a rate that was given is of its own kind alone."""
    own = settings.model_copy(update={"mix": mix, "encoder": encoder or None, "augment": "none"})
    if own.head != settings.head:
        own = own.model_copy(update={"learning_rate": None})
    if bank is None:
        return NetworkLearner(own, say)
    return LinearLearner(own, bank.encoder, say, bank)


def _combine(augments: bool, mixes: Sequence[Mix], values: Sequence[float | None]) -> list[Any]:
    strengths = STRENGTHS if augments else STRENGTHS[:1]
    return list(itertools.product(strengths, mixes, values))


def _level(is_synthetic: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns rows in which the real images are repeated until they are about as many."""
    real, made = np.flatnonzero(~is_synthetic), np.flatnonzero(is_synthetic)
    times = max(1, round(len(made) / max(1, len(real))))
    return np.concatenate([np.tile(real, times), made])
