"""Settings of a few-shot adaptation: what `factory train adapter` is asked for."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from factory.catalog.entries import Strict
from factory.core.errors import InputError
from factory.models.generators.prompts import DEFAULT_TEMPLATE, check_template


class AdapterSettings(Strict):
    """How a base model is adapted to a few images of each class; None is the family's default."""

    base: str = Field(min_length=1, description="catalog id, Hub id or folder")
    data: Path = Field(description="real images, one folder or label for each class")
    shots: int = Field(ge=1, le=10_000, description="images of each class, chosen by seed")
    id: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    classes: str | None = Field(None, description="catalog id of the classes, for their titles")
    template: str = Field(DEFAULT_TEMPLATE, description="prompt of a text model")
    fit: Literal["crop", "resize"] = "crop"
    image_column: str | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    mpp: float | None = Field(None, gt=0, description="µm per pixel of the fitted images")
    about: str = Field("", description="what the images are and on which terms")
    steps: int | None = Field(None, ge=1, le=1_000_000)
    batch_size: int | None = Field(None, ge=1, le=4096)
    learning_rate: float | None = Field(None, gt=0, le=1)
    rank: int | None = Field(None, ge=1, le=512)
    layers: Literal["attention", "all"] | None = None
    dropout: float = Field(0.1, ge=0, lt=1, description="of the condition, for guidance")
    stain_jitter: float = Field(0.0, ge=0, le=0.5)
    prior_weight: float | None = Field(None, ge=0, le=100)
    guidance: float | None = Field(None, ge=0, le=100, description="of checks and catalog entry")
    prior_images: int = Field(64, ge=1, le=100_000)
    check_every: int | None = Field(None, ge=1)
    check_images: int = Field(8, ge=1, le=1000, description="samples of each class")
    max_copies: float = Field(0.1, ge=0, le=1, description="share of samples that copy a shot")
    max_similarity: float | None = Field(None, ge=0, le=1)
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = "auto"


class Choices(Strict):
    """The family's defaults for what is not asked for."""

    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    layers: Literal["attention", "all"]
    prior_weight: float
    check_every: int
    guidance: float | None = None

    def settle(self, settings: AdapterSettings) -> AdapterSettings:
        """Returns the settings with nothing left open, but for the id."""
        values = self.model_dump()
        is_open = [name for name in values if getattr(settings, name) is None]
        return settings.model_copy(update={name: values[name] for name in is_open})


NOT_COMPARED = frozenset({"base", "data", "image_column", "id", "about", "steps", "device", "mpp"})
"""Fields that may differ when a training is resumed: paths, words, and how long it goes on."""


def make_settings(**values: Any) -> AdapterSettings:
    """Checks the options of the command line.

    Raises:
        InputError: every option that is out of bounds, by its name.
    """
    try:
        settings = AdapterSettings(**values)
    except ValidationError as error:
        lines = [
            f"--{'-'.join(str(part) for part in each['loc']).replace('_', '-')}: "
            f"{each['msg']}, got {each['input']!r}"
            for each in error.errors(include_url=False)
        ]
        raise InputError("\n".join(lines)) from error
    check_template(settings.template)
    if settings.group_column is not None and settings.group_pattern is not None:
        raise InputError("--group-column, --group-pattern: give one of them")
    return settings


def describe_settings(settings: AdapterSettings) -> dict[str, Any]:
    """Returns what shapes the weights, and must be the same when a training is resumed."""
    described: dict[str, Any] = settings.model_dump(mode="json", exclude=set(NOT_COMPARED))
    return described
