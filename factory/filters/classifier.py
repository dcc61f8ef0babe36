"""`classifier`: rejects images that a classifier of real images does not take for their class."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.errors import FilterError
from factory.filter_settings import ClassifierFilter
from factory.filters.classifier_model import INFO_NAME, Classifier, load_classifier
from factory.fingerprint import hash_bytes
from factory.records import Condition, Sample, Verdict

FindClassifier = Callable[[str], Path | None]
"""Maps a catalog id to the classifier's folder; None where no catalog knows it."""


class ClassifierJudge:
    """Scores the calibrated probability of the asked class, and its margin.

    `class_margin` is that probability minus the largest other one; the verdict uses
    `class_probability` alone. Without a class in the condition both are NaN: not
    applicable, accepted.
    """

    kind: ClassVar[str] = "classifier"
    score_names: tuple[str, ...] = ("class_probability", "class_margin")
    thresholds: ClassVar[Mapping[str, str]] = {"min_probability": "class_probability"}

    def __init__(
        self, settings: ClassifierFilter, base: Path, find_classifier: FindClassifier
    ) -> None:
        self.settings = settings
        self.folder = find_classifier(settings.model) or base / settings.model
        self._classifier: Classifier | None = None

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns both scores; NaN where the condition names no class.

        Raises:
            InputError: the classifier's folder is missing or damaged.
            FilterError: a class that the classifier does not know, or the encoder failed.
        """
        probability, margin = np.full((2, len(samples)), np.nan)
        rows = [i for i, condition in enumerate(conditions) if condition.class_name is not None]
        if rows:
            classifier = self._load()
            asked = [_find_class(classifier, str(conditions[i].class_name)) for i in rows]
            try:
                found = classifier.predict_probabilities([samples[i].pixels for i in rows])
            except (RuntimeError, ValueError, OSError) as error:
                raise FilterError(f"classifier {self.settings.model}: {error}") from error
            probability[rows] = found[np.arange(len(rows)), asked]
            found[np.arange(len(rows)), asked] = -np.inf
            margin[rows] = probability[rows] - found.max(axis=1)
        return {"class_probability": probability, "class_margin": margin}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects a probability under `min_probability`; NaN is accepted."""
        probability, least = scores["class_probability"], self.settings.min_probability
        if probability < least:
            return Verdict(False, self.kind, f"class_probability {probability:g} < {least:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold and the classifier's revision (sha256 of `classifier.json`).

        Raises:
            FilterError: the classifier's folder cannot be read.
        """
        try:
            revision = hash_bytes((self.folder / INFO_NAME).read_bytes())
        except OSError as error:
            raise FilterError(f"{self.folder}: no classifier there ({error.strerror})") from error
        return {**self.settings.model_dump(mode="json"), "revision": revision}

    def _load(self) -> Classifier:
        if self._classifier is None:
            self._classifier = load_classifier(self.folder)
        return self._classifier


def _find_class(classifier: Classifier, name: str) -> int:
    try:
        return classifier.class_names.index(name)
    except ValueError:
        known = ", ".join(classifier.class_names)
        raise FilterError(
            f"the classifier does not know class {name!r}: it knows {known}"
        ) from None
