"""`zero_shot`: rejects images that an image-text model does not take for their class; no training.

The classes are described in words from a catalog (titles and synonyms, in several templates). After
Radford et al. 2021 (arXiv 2103.00020, section 3.1.4), a class is the mean of its prompts' unit
features, brought to length 1 again; CONCH (Lu et al. 2024, Nature Medicine 30) takes the mean over
synonyms too. Then p = softmax(scale * cos(image, class)), with the scale that the model learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.catalog.entries import ClassEntry, Fraction
from factory.core.errors import FilterError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.filters.asked import Images
from factory.filters.base import Score, Scores
from factory.filters.check import FilterCheck
from factory.filters.image_text import ImageTextFilter, ImageTextSettings
from factory.models.encoders import open_kind
from factory.models.session import Session

TEMPLATES = (
    "{class_name}.",
    "an H&E image of {class_name}.",
    "an H&E stained image showing {class_name}.",
    "a histopathological image of {class_name}.",
    "a photomicrograph showing {class_name}.",
    "presence of {class_name}.",
)
"""Wordings of PLIP (Huang et al. 2023, "An H&E image of ...") and of CONCH's ensemble."""


class ZeroShotFilter(ImageTextFilter):
    """Scores the asked class's zero-shot probability, and its margin to the largest other one.

    Both are NaN without a class in the condition: not applicable, accepted. The probability is not
    calibrated on anybody's images.
    """

    scores = (
        Score("zero_shot_probability", at_least="min_probability", may_be_nan=True),
        Score("zero_shot_margin", at_least="min_margin", may_be_nan=True),
    )

    class Settings(ImageTextSettings):
        kind: Literal["zero_shot"]
        classes: str = Field(
            min_length=1, description="catalog id of classes with titles, synonyms"
        )
        templates: tuple[str, ...] | None = Field(
            None, min_length=1, description="prompts with {class_name}; default: six for H&E"
        )
        min_probability: Fraction = Field(0.5, description="of the asked class, not calibrated")
        min_margin: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(
            None, description="probability of the asked class minus the largest other"
        )

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._classes: NDArray[np.float32] | None = None
        self._names: tuple[str, ...] = ()
        self._scale = 1.0

    def check(self, check: FilterCheck) -> None:
        """Notes templates, classes and models that cannot be used."""
        checker, settings = check.checker, self.settings
        for row, template in enumerate(settings.templates or ()):
            checker.check_template(template, check.at("templates", row), required=True)
        place = check.at("classes")
        entry = checker.look_up(place, checker.catalogs.find_classes, settings.classes)
        if entry is not None:
            known = tuple(each.name for each in entry.classes)
            if len(known) < 2:
                checker.add(place, f"{entry.id} has one class: nothing to tell apart")
            checker.check_asked(f"class list {entry.id}", known)
        super().check(check)

    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns both scores.

        Raises:
            InputError: the model cannot be had.
            FilterError: a class that the catalog's set does not have, or the model failed.
        """
        self._embed_classes()
        rows, places = np.arange(len(images)), [self._find_class(name) for name in asked]
        found = classify(self.encode(images), self._classes, self._scale)
        probability = found[rows, places]
        found[rows, places] = -np.inf
        margin = probability - found.max(axis=1)
        return {"zero_shot_probability": probability, "zero_shot_margin": margin}

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, the hash of all prompts and what the encoder says of itself.

        Raises:
            InputError: the model cannot be had.
        """
        prompts = compute_digest("prompts", self._write_prompts())
        place = open_kind(self.settings.encoder).placeless
        return {**super().describe(), "encoder": place, "prompts_sha256": prompts}

    def _write_prompts(self) -> dict[str, list[str]]:
        templates = self.settings.templates or TEMPLATES
        found = self.context.catalogs.find_classes(self.settings.classes)
        return {entry.name: write_prompts(entry, templates) for entry in found.classes}

    def _find_class(self, name: str) -> int:
        try:
            return self._names.index(name)
        except ValueError:
            known = ", ".join(self._names)
            raise FilterError(
                f"the classes {self.settings.classes} have no {name!r}: they have {known}"
            ) from None

    def _embed_classes(self) -> None:
        """Loads the text side just long enough to embed the classes, once."""
        if self._classes is None:
            prompts, text = self._write_prompts(), self.open_kind().load_text()
            features = text.embed([prompt for each in prompts.values() for prompt in each])
            owners = np.repeat(np.arange(len(prompts)), [len(each) for each in prompts.values()])
            self._classes = average_prompts(features, owners)
            self._names, self._scale = tuple(prompts), text.scale


def write_prompts(entry: ClassEntry, templates: Sequence[str]) -> list[str]:
    """Returns every template filled with the title and with each synonym of a class."""
    words = dict.fromkeys((entry.title, *entry.synonyms))
    return [template.replace("{class_name}", word) for word in words for template in templates]


def average_prompts(
    features: NDArray[np.float32], owners: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Returns (C, D) float32 class features of length 1: means of unit prompt features.

    Args:
        features: (N, D), each row of length 1.
        owners: (N,) class 0 .. C - 1 of each prompt.
    """
    means = [features[owners == row].mean(axis=0) for row in range(int(owners.max()) + 1)]
    return np.stack([mean / np.linalg.norm(mean) for mean in means]).astype(np.float32)


def classify(
    features: NDArray[np.floating[Any]], classes: NDArray[np.float32] | None, scale: float
) -> NDArray[np.float64]:
    """Returns (N, C) float64 probabilities softmax(scale * cosine) of (N, D) image features."""
    from scipy.special import softmax

    if classes is None:
        raise FilterError("zero_shot: the classes are not embedded yet")
    images = features.astype(np.float64)
    images = images / np.maximum(np.linalg.norm(images, axis=1, keepdims=True), 1e-12)
    logits = scale * (images @ classes.astype(np.float64).T)
    return np.asarray(softmax(logits, axis=1))
