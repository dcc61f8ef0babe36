"""`agreement`: rejects images on whose class several classifiers of real images do not agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Fraction
from factory.core.late import np
from factory.filters.asked import AskedFilter, Images
from factory.filters.base import FilterSettings, Labels, Score, Scores
from factory.filters.check import FilterCheck
from factory.filters.classifier import find_classes, hash_info, predict
from factory.models.classifiers.check import check_known


class AgreementFilter(AskedFilter):
    """Scores how far differently made classifiers confirm the asked class.

    `class_agreement`: share of the classifiers whose most probable class is the asked one (votes of
    a committee, Seung et al. 1992). `least_probability`: of the asked class, by the classifier that
    finds it least probable. Without a class in the condition both are NaN: not applicable,
    accepted.
    """

    scores = (
        Score("class_agreement", at_least="min_agreement", may_be_nan=True),
        Score("least_probability", at_least="min_probability", may_be_nan=True),
    )

    class Settings(FilterSettings):
        kind: Literal["agreement"]
        models: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
            min_length=2, description="catalog ids of classifiers, or their folders"
        )
        min_agreement: Fraction = Field(
            1.0, description="share of classifiers whose most probable class is the asked one"
        )
        min_probability: Fraction | None = Field(
            None, description="of the asked class, by the classifier that finds it least probable"
        )

        @model_validator(mode="after")
        def _check_distinct(self) -> Self:
            if len(set(self.models)) < len(self.models):
                raise ValueError(f"models: each classifier once, got {', '.join(self.models)}")
            return self

    settings: Settings

    @classmethod
    def list_labels(cls, described: Mapping[str, Any]) -> Sequence[Labels]:
        """Those of its classifiers."""
        return [Labels(str(model)) for model in described["models"]]

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Those that judge."""
        return self.settings.models

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the classifiers lie."""
        return tuple(map(self.context.find_classifier_folder, self.classifiers))

    def check(self, check: FilterCheck) -> None:
        """Notes classifiers that are not there, and classes that one does not know."""
        for number, name in enumerate(self.settings.models):
            check_known(check.checker, name, check.at("models", number))

    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns both scores.

        Raises:
            InputError: a classifier's folder is missing or damaged.
            FilterError: a class that a classifier does not know, or an encoder failed.
        """
        votes, chances = [], []
        for model in self.settings.models:
            classifier = self.context.load_classifier(model)
            places = find_classes(classifier, asked)
            found = predict(classifier, images, model)
            votes.append(found.argmax(axis=1) == places)
            chances.append(found[np.arange(len(images)), places])
        return {
            "class_agreement": np.mean(votes, axis=0),
            "least_probability": np.min(chances, axis=0),
        }

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and the revision of each classifier, in order.

        Raises:
            FilterError: a classifier's folder cannot be read.
        """
        return {**self.dump_settings(), "revisions": [hash_info(folder) for folder in self.folders]}
