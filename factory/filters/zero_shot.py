"""`zero_shot`: rejects images that an image-text model does not take for their class; no training.

The classes are described in words from a catalog (titles and synonyms, in several templates). After
Radford et al. 2021 (arXiv 2103.00020, section 3.1.4), a class is the mean of its prompts' unit
features, brought to length 1 again; CONCH (Lu et al. 2024, Nature Medicine 30) takes the mean over
synonyms too. Then p = softmax(scale * cos(image, class)), with the scale that the model learned.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory.catalog.entries import ClassEntry, Fraction
from factory.core.errors import FilterError
from factory.core.hashing import compute_digest
from factory.data.records import Condition, Sample
from factory.filters.base import Filter, FilterSettings, Score
from factory.filters.batches import encode_images
from factory.filters.check import FilterCheck
from factory.models.encoders import open_kind, open_text_kind
from factory.models.encoders.check import check_clip
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.models.encoders import Encoder

TEMPLATES = (
    "{class_name}.",
    "an H&E image of {class_name}.",
    "an H&E stained image showing {class_name}.",
    "a histopathological image of {class_name}.",
    "a photomicrograph showing {class_name}.",
    "presence of {class_name}.",
)
"""Wordings of PLIP (Huang et al. 2023, "An H&E image of ...") and of CONCH's ensemble."""


class ZeroShotFilter(Filter):
    """Scores the asked class's zero-shot probability, and its margin to the largest other one.

    Both are NaN without a class in the condition: not applicable, accepted. The probability is not
    calibrated on anybody's images.
    """

    kind = "zero_shot"
    scores = (
        Score("zero_shot_probability", at_least="min_probability", may_be_nan=True),
        Score("zero_shot_margin", at_least="min_margin", may_be_nan=True),
    )
    needs_class = True

    class Settings(FilterSettings):
        """Rejects images that an image-text model does not take for their class; no training."""

        kind: Literal["zero_shot"]
        encoder: str = Field(
            min_length=1, description="catalog id, open_clip:hf-hub:OWNER/NAME or :local-dir:FOLDER"
        )
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
        self._encoder: Encoder | None = None
        self._classes: NDArray[np.float32] | None = None
        self._names: tuple[str, ...] = ()
        self._scale = 1.0

    @property
    def encoders(self) -> tuple[str, ...]:
        """The image side of the model."""
        return (self.settings.encoder,)

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
        check_clip(checker, settings.encoder, check.at("encoder"))

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns both scores; NaN where the condition names no class.

        Raises:
            InputError: the model cannot be had.
            FilterError: a class that the catalog's set does not have, or the model failed.
        """
        probability, margin = np.full((2, len(samples)), np.nan)
        rows = [i for i, condition in enumerate(conditions) if condition.class_name is not None]
        if rows:
            encoder = self._load()
            asked = [self._find_class(str(conditions[i].class_name)) for i in rows]
            pixels = [samples[i].pixels for i in rows]
            try:
                features = encode_images(encoder, pixels)
            except (RuntimeError, ValueError, OSError) as error:
                raise FilterError(f"zero_shot {self.settings.encoder}: {error}") from error
            found = classify(features, self._classes, self._scale)
            probability[rows] = found[np.arange(len(rows)), asked]
            found[np.arange(len(rows)), asked] = -np.inf
            margin[rows] = probability[rows] - found.max(axis=1)
        return {"zero_shot_probability": probability, "zero_shot_margin": margin}

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, the hash of all prompts and what the encoder says of itself.

        Raises:
            InputError: the model cannot be had.
        """
        settings = self.dump_settings()
        settings["encoder"] = open_kind(settings["encoder"]).placeless
        encoder = self._load().describe()
        prompts = compute_digest("prompts", self._write_prompts())
        revision = {key: encoder[key] for key in ("revision", "weights_sha256")}
        return {**settings, **revision, "prompts_sha256": prompts}

    def _list_classes(self) -> tuple[ClassEntry, ...]:
        return self.context.catalogs.find_classes(self.settings.classes).classes

    def _write_prompts(self) -> dict[str, list[str]]:
        templates = self.settings.templates or TEMPLATES
        return {entry.name: write_prompts(entry, templates) for entry in self._list_classes()}

    def _find_class(self, name: str) -> int:
        try:
            return self._names.index(name)
        except ValueError:
            known = ", ".join(self._names)
            raise FilterError(
                f"the classes {self.settings.classes} have no {name!r}: they have {known}"
            ) from None

    def _load(self) -> "Encoder":
        """Loads the image side, and the text side just long enough to embed the classes."""
        if self._encoder is None:
            base, catalogs = self.context.base, self.context.catalogs
            kind = open_text_kind(self.settings.encoder, base, catalogs)
            prompts, text = self._write_prompts(), kind.load_text()
            features = text.embed([prompt for each in prompts.values() for prompt in each])
            owners = np.repeat(np.arange(len(prompts)), [len(each) for each in prompts.values()])
            self._classes = average_prompts(features, owners)
            self._names, self._scale = tuple(prompts), text.scale
            self._encoder = self.context.encoders.load(kind.spec, base)
        return self._encoder


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
    if classes is None:
        raise FilterError("zero_shot: the classes are not embedded yet")
    images = features.astype(np.float64)
    images = images / np.maximum(np.linalg.norm(images, axis=1, keepdims=True), 1e-12)
    logits = scale * (images @ classes.astype(np.float64).T)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
