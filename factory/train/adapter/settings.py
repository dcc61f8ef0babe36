"""Settings of a few-shot adaptation: what `factory train adapter` is asked for."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Strict
from factory.core.errors import InputError
from factory.core.fields import (
    Count,
    Fit,
    GroupColumn,
    GroupPattern,
    ImageColumn,
    Images,
    Options,
    Seed,
)
from factory.models.generators.prompts import DEFAULT_TEMPLATE, check_template


class AdapterSettings(Options):
    """How a base model is adapted to a few images of each class; None is the family's default."""

    base: str = Field("nano-he-base", min_length=1, description="Catalog id, Hub id or folder.")
    data: Images = Field(description="Real images with classes.")
    shots: int = Field(ge=1, le=10_000, description="Images of each class, by seed.")
    id: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="Of the catalog entry; default: base, data and shots.",
    )
    classes: str | None = Field(
        None, description="Catalog id of the classes, for the words in prompts."
    )
    template: str = Field(
        DEFAULT_TEMPLATE, description="Prompt of a text model, with {class_name}."
    )
    fit: Fit = Field("crop", description="Crop keeps mpp.")
    mpp: float | None = Field(
        None, gt=0, le=1000, description="µm per pixel of the images as fitted."
    )
    about: str = Field("", description="What the images are and on which terms, for the card.")
    image_column: ImageColumn = None
    group_column: GroupColumn = None
    group_pattern: GroupPattern = None
    steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Training steps; may be raised on resume."
    )
    batch_size: int | None = Field(None, ge=1, le=4096, description="Shots in one step.")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Of AdamW, constant after a warm-up."
    )
    rank: int | None = Field(None, ge=1, le=512, description="Of the low-rank updates.")
    layers: Literal["attention", "all"] | None = Field(None, description="What is updated.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of conditions dropped.")
    stain_jitter: float = Field(0.0, ge=0, le=0.5, description="HED colour augmentation.")
    prior_weight: float | None = Field(
        None, ge=0, le=100, description="Of the base's own images in the loss."
    )
    prior_images: int = Field(64, ge=1, le=100_000, description="Sampled once from the base.")
    guidance: float | None = Field(
        None, ge=0, le=100, description="Of checks, and default of the catalog entry."
    )
    check_every: Count | None = Field(None, description="Steps between checks for copies.")
    check_images: int = Field(8, ge=1, le=1000, description="Samples of each class.")
    max_copies: float = Field(0.1, ge=0, le=1, description="Share of samples that stops.")
    max_similarity: float | None = Field(
        None, ge=0, le=1, description="Of no copy; default: read off the shots."
    )
    seed: Seed = Field(0, description="Of shots, weights and every draw.")
    device: str = Field("auto", description="Torch device.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_template(self.template)
        if self.group_column is not None and self.group_pattern is not None:
            raise InputError("--group-column, --group-pattern: give one of them")
        return self


class Choices(Strict):
    """The family's defaults for what is not asked for."""

    steps: int
    batch_size: int
    learning_rate: float
    layers: Literal["attention", "all"]
    prior_weight: float = 0.0
    rank: int = 16
    check_every: int = 100
    guidance: float | None = None

    def settle(self, settings: AdapterSettings) -> AdapterSettings:
        """Returns the settings with nothing left open, but for the id."""
        values = self.model_dump()
        is_open = [name for name in values if getattr(settings, name) is None]
        return settings.model_copy(update={name: values[name] for name in is_open})


NOT_COMPARED = frozenset({"base", "data", "image_column", "id", "about", "steps", "device", "mpp"})
"""Fields that may differ when a training is resumed: paths, words, and how long it goes on."""


def describe_settings(settings: AdapterSettings) -> dict[str, Any]:
    """Returns what shapes the weights, and must be the same when a training is resumed."""
    described: dict[str, Any] = settings.model_dump(mode="json", exclude=set(NOT_COMPARED))
    return described
