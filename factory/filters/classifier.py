"""`classifier`: rejects images that a classifier of real ones does not take for the asked class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from factory.catalog.entries import ClassName, Fraction
from factory.core.errors import FilterError
from factory.core.hashing import hash_bytes
from factory.core.late import NDArray, np
from factory.filters.asked import AskedFilter, Images
from factory.filters.base import FilterSettings, Labels, Score, Scores
from factory.filters.check import FilterCheck
from factory.models.classifiers.check import KnownClassifier, check_known
from factory.models.classifiers.model import INFO_NAME, Classifier


class ClassifierFilter(AskedFilter):
    """Scores what a calibrated classifier says of the asked class.

    `class_probability`: of the asked class. `class_margin`: that minus the largest other one.
    `class_entropy`: -sum p log p / log C of the C predicted probabilities; 0 sure, 1 no idea.
    `class_precision`: the highest tabled precision whose threshold the probability reaches, i.e.
    the share of held-out real images at least as probable that were of the class; 0 where none is
    reached, NaN (null in tables) where the classifier has no table of the class, which
    `min_precision` rejects. Without a class in the condition all are NaN: not applicable, accepted.
    """

    scores = (
        Score("class_probability", at_least="min_probability", may_be_nan=True),
        Score(
            "class_precision",
            at_least="min_precision",
            may_be_nan=True,
            where="class_probability",
            unknown="no table of the class",
        ),
        Score("class_margin", at_least="min_margin", may_be_nan=True),
        Score("class_entropy", at_most="max_entropy", may_be_nan=True),
    )
    fitted = "model"
    idle: ClassVar[Mapping[str, Any]] = {
        "min_probability": 0.0,
        "min_precision": None,
        "min_margin": -1.0,
        "max_entropy": None,
    }

    class Settings(FilterSettings):
        kind: Literal["classifier"]
        model: str = Field(min_length=1, description="catalog id of a classifier, or its folder")
        min_probability: Fraction | dict[ClassName, Fraction] = Field(
            0.5, description="calibrated, of the asked class: one number, or class -> number"
        )
        min_precision: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
            None, description="of held-out real images as sure; without min_probability, alone"
        )
        min_margin: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(
            None, description="probability of the asked class minus the largest other"
        )
        max_entropy: Fraction | None = Field(
            None, description="of the predicted classes; 1: all equally probable"
        )

        @model_validator(mode="before")
        @classmethod
        def _let_precision_decide(cls, given: Any) -> Any:
            """Without a `min_probability` of its own, a wished precision is the only threshold."""
            if isinstance(given, dict) and given.get("min_precision") is not None:
                return {"min_probability": 0.0, **given}
            return given

    settings: Settings

    @classmethod
    def list_labels(cls, described: Mapping[str, Any]) -> Sequence[Labels]:
        """Those of its classifier."""
        return (Labels(str(described["model"])),)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The one that judges."""
        return (self.settings.model,)

    @property
    def folder(self) -> Path:
        """Where the classifier lies."""
        return self.context.find_classifier_folder(self.settings.model)

    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns all scores.

        Raises:
            InputError: the classifier's folder is missing or damaged.
            FilterError: a class that the classifier does not know, or the encoder failed.
        """
        classifier = self.context.load_classifier(self.settings.model)
        known = find_classes(classifier, asked)
        found = predict(classifier, images, self.settings.model)
        chosen, places = found[np.arange(len(images)), known], np.arange(found.shape[1])
        others = np.where(places == known[:, None], -np.inf, found)
        precision = [
            classifier.info.find_precision(name, probability)
            for name, probability in zip(asked, chosen.tolist(), strict=True)
        ]
        return {
            "class_probability": chosen,
            "class_margin": chosen - others.max(axis=1),
            "class_entropy": measure_entropy(found),
            "class_precision": np.array(precision, np.float64),
        }

    def check(self, check: FilterCheck) -> None:
        """Notes a classifier that is not there, and classes that it or a threshold lacks."""
        settings, asked = self.settings, check.checker.asked.fields
        known = check_known(check.checker, settings.model, check.at("model"))
        if isinstance(settings.min_probability, dict):
            path = check.at("min_probability")
            names = None if known is None else known.class_names
            check.checker.check_names(tuple(settings.min_probability), names, path, settings.model)
            for name in asked:
                if name not in settings.min_probability:
                    check.checker.add(
                        path, f"leaves out class {name!r}, which is asked for: add it"
                    )
        if settings.min_precision is not None and known is not None:
            self._check_precision(check, known, settings.min_precision)

    def _check_precision(self, check: FilterCheck, known: KnownClassifier, wished: float) -> None:
        """Notes a precision that the classifier reaches at no probability."""
        info, model = known.info, self.settings.model
        if info is None:
            return
        if info.thresholds is None:
            message = "has no thresholds by precision (too few images, or of an older version)"
            do = "use min_probability, or fit it again"
            check.add(f"{model} {message}: {do}", "min_precision")
            return
        for name in check.checker.asked.fields:
            rows = info.thresholds.get(name, ())
            best = max((row.precision for row in rows), default=0.0)
            if name in known.class_names and best < wished:
                message = f"{model} reaches {wished:g} at no probability for class {name!r}"
                check.add(f"{message} (highest tabled: {best:g}): lower it", "min_precision")

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds and the classifier's revision (sha256 of `classifier.json`).

        Raises:
            FilterError: the classifier's folder cannot be read.
        """
        return {**self.dump_settings(), "revision": hash_info(self.folder)}


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
