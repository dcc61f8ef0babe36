"""`agreement`: rejects images on whose class several classifiers of real images do not agree."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.data.records import SCORE_DECIMALS, Condition, Sample, Verdict
from factory.filters.base import Surroundings
from factory.filters.classifier import (
    find_classes,
    hash_info,
    predict,
)
from factory.filters.settings import AgreementFilter
from factory.models.classifiers.model import Classifier, find_classifier_folder, load_classifier


class AgreementJudge:
    """Scores how far differently made classifiers confirm the asked class.

    `class_agreement`: share of the classifiers whose most probable class is the asked one (votes of
    a committee, Seung et al. 1992). `least_probability`: of the asked class, by the classifier that
    finds it least probable. Without a class in the condition both are NaN: not applicable,
    accepted.
    """

    kind: ClassVar[str] = "agreement"
    score_names: tuple[str, ...] = ("class_agreement", "least_probability")
    may_be_nan: ClassVar[frozenset[str]] = frozenset(score_names)
    thresholds: ClassVar[Mapping[str, str]] = {
        "min_agreement": "class_agreement",
        "min_probability": "least_probability",
    }

    def __init__(self, settings: AgreementFilter, surroundings: Surroundings) -> None:
        self.settings, self._encoders = settings, surroundings.encoders
        self.folders = tuple(
            find_classifier_folder(name, surroundings.base, surroundings.catalogs)
            for name in settings.models
        )
        self._classifiers: tuple[Classifier, ...] = ()

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns both scores; NaN where the condition names no class.

        Raises:
            InputError: a classifier's folder is missing or damaged.
            FilterError: a class that a classifier does not know, or an encoder failed.
        """
        agreement, least = np.full((2, len(samples)), np.nan)
        rows = [i for i, condition in enumerate(conditions) if condition.class_name is not None]
        if rows:
            if not self._classifiers:
                self._classifiers = tuple(
                    load_classifier(folder, encoders=self._encoders) for folder in self.folders
                )
            names = [str(conditions[i].class_name) for i in rows]
            images = [samples[i].pixels for i in rows]
            votes, chances = [], []
            for classifier, model in zip(self._classifiers, self.settings.models, strict=True):
                asked = find_classes(classifier, names)
                found = predict(classifier, images, model)
                votes.append(found.argmax(axis=1) == asked)
                chances.append(found[np.arange(len(rows)), asked])
            agreement[rows], least[rows] = np.mean(votes, axis=0), np.min(chances, axis=0)
        return {"class_agreement": agreement, "least_probability": least}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects a score under a least value that is set; NaN is accepted."""
        for field, name in self.thresholds.items():
            least = getattr(self.settings, field)
            if least is not None and scores[name] < round(least, SCORE_DECIMALS):
                return Verdict(False, self.kind, f"{name} {scores[name]:g} < {least:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and the revision of each classifier, in order.

        Raises:
            FilterError: a classifier's folder cannot be read.
        """
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        return {**settings, "revisions": [hash_info(folder) for folder in self.folders]}
