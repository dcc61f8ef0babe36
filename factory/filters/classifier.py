"""`classifier`: rejects images that a classifier of real images does not take for their class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import FilterError
from factory.core.hashing import hash_bytes
from factory.data.records import Condition, Sample, Verdict
from factory.filters.base import Surroundings
from factory.filters.settings import ClassifierFilter
from factory.models.classifiers.model import (
    INFO_NAME,
    Classifier,
    find_classifier_folder,
    load_classifier,
)


class ClassifierJudge:
    """Scores what a calibrated classifier says of the asked class.

    `class_probability`: of the asked class. `class_margin`: that minus the largest other one.
    `class_entropy`: -sum p log p / log C of the C predicted probabilities; 0 sure, 1 no idea.
    `class_precision`: the highest tabled precision whose threshold the probability reaches, i.e.
    the share of held-out real images at least as probable that were of the class; 0 where none is
    reached, NaN (null in tables) where the classifier has no table of the class, which
    `min_precision` rejects. Without a class in the condition all are NaN: not applicable, accepted.
    """

    kind: ClassVar[str] = "classifier"
    score_names: tuple[str, ...] = (
        "class_probability",
        "class_margin",
        "class_entropy",
        "class_precision",
    )
    may_be_nan: ClassVar[frozenset[str]] = frozenset(score_names)
    thresholds: ClassVar[Mapping[str, str]] = {
        "min_probability": "class_probability",
        "min_precision": "class_precision",
        "min_margin": "class_margin",
        "max_entropy": "class_entropy",
    }

    def __init__(self, settings: ClassifierFilter, surroundings: Surroundings) -> None:
        self.settings, self._encoders = settings, surroundings.encoders
        self.folder = find_classifier_folder(
            settings.model, surroundings.base, surroundings.catalogs
        )
        self._classifier: Classifier | None = None

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns all scores; NaN where the condition names no class.

        Raises:
            InputError: the classifier's folder is missing or damaged.
            FilterError: a class that the classifier does not know, or the encoder failed.
        """
        scores = {name: np.full(len(samples), np.nan) for name in self.score_names}
        rows = [i for i, condition in enumerate(conditions) if condition.class_name is not None]
        if rows:
            if self._classifier is None:
                self._classifier = load_classifier(self.folder, encoders=self._encoders)
            names = [str(conditions[i].class_name) for i in rows]
            asked = find_classes(self._classifier, names)
            images = [samples[i].pixels for i in rows]
            found = predict(self._classifier, images, self.settings.model)
            chosen, places = found[np.arange(len(rows)), asked], np.arange(found.shape[1])
            others = np.where(places == asked[:, None], -np.inf, found)
            scores["class_probability"][rows] = chosen
            scores["class_margin"][rows] = chosen - others.max(axis=1)
            scores["class_entropy"][rows] = measure_entropy(found)
            scores["class_precision"][rows] = [
                self._classifier.info.find_precision(name, probability)
                for name, probability in zip(names, chosen.tolist(), strict=True)
            ]
        return scores

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Decides where no class was asked; see `decide_class`."""
        return self.decide_class(scores, None)

    def decide_class(self, scores: Mapping[str, float], class_name: str | None) -> Verdict:
        """Rejects a score on the wrong side of a threshold that is set; NaN is accepted.

        Raises:
            FilterError: `min_probability` differs by class and leaves this one out.
        """
        for field, name in self.thresholds.items():
            bound = getattr(self.settings, field)
            if bound is None:
                continue
            if np.isnan(value := scores[name]):
                if name == "class_precision" and not np.isnan(scores["class_probability"]):
                    return Verdict(False, self.kind, f"{name} is not known: no table of the class")
                continue
            limit = _get_named(bound, class_name) if isinstance(bound, dict) else bound
            if field.startswith("min_") and value < limit:
                return Verdict(False, self.kind, f"{name} {value:g} < {limit:g}")
            if field.startswith("max_") and value > limit:
                return Verdict(False, self.kind, f"{name} {value:g} > {limit:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and the classifier's revision (sha256 of `classifier.json`).

        Raises:
            FilterError: the classifier's folder cannot be read.
        """
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        return {**settings, "revision": hash_info(self.folder)}


def find_classes(classifier: Classifier, names: Sequence[str]) -> NDArray[np.int64]:
    """Returns (N,) positions of classes.

    Raises:
        FilterError: a class that the classifier does not know.
    """
    known = classifier.class_names
    for name in names:
        if name not in known:
            listed = ", ".join(known)
            raise FilterError(f"the classifier does not know class {name!r}: it knows {listed}")
    return np.array([known.index(name) for name in names], np.int64)


def predict(
    classifier: Classifier, images: Sequence[NDArray[np.uint8]], model: str
) -> NDArray[np.float64]:
    """Returns (N, C) probabilities of images.

    Raises:
        FilterError: the encoder failed.
    """
    try:
        return classifier.predict_probabilities(images)
    except (RuntimeError, ValueError, OSError) as error:
        raise FilterError(f"classifier {model}: {error}") from error


def measure_entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N,) entropies of (N, C) rows, divided by log C: 0 for certain, 1 for uniform."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return np.asarray(-(probabilities * logs).sum(axis=1) / np.log(probabilities.shape[1]))


def hash_info(folder: Path) -> str:
    """Returns the sha256 of a folder's `classifier.json`, which holds the hashes of all weights.

    Raises:
        FilterError: it cannot be read.
    """
    try:
        return hash_bytes((folder / INFO_NAME).read_bytes())
    except OSError as error:
        raise FilterError(f"{folder}: no classifier there ({error.strerror})") from error


def _get_named(bounds: Mapping[str, float], class_name: str | None) -> float:
    if class_name is not None and class_name in bounds:
        return bounds[class_name]
    raise FilterError(
        f"classifier: min_probability names {', '.join(bounds)}, but not {class_name!r}: add it"
    )
