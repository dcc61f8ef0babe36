"""What a block of kind `cohort` says: patients, slides, labels, splits, stains and profiles."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.catalog.captions.weights import Weights
from factory.catalog.entries import ClassName as ClassWord
from factory.catalog.entries import Fraction, Strict
from factory.data.streams.bag import BACKGROUND
from factory.recipe.conditions.base import ConditionSettings
from factory.recipe.conditions.looks import Stains as MeasuredStains

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
SplitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Patches(Strict):
    """What patches show: classes of the model, or captions of the block's grid, by weight."""

    classes: dict[ClassWord, Weight] | None = Field(
        None, description="class -> how often; of models that take classes"
    )
    weights: Weights | None = Field(
        None, description="of the grid in `captions`: attribute -> value -> how often"
    )


class Label(Patches):
    """A label of patients, and what of their slides shows it."""

    share: Fraction = Field(description="of the patients; all labels together are 1")
    positive: Fraction | tuple[Fraction, Fraction] = Field(
        0.0,
        description="share of each slide's patches that show the label: one, or the least and the "
        "greatest; 0: they all show the background",
    )
    values: dict[str, float] = Field(
        {}, description="of profiles: value -> its mean among patients of the label; default: 0"
    )

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest share."""
        own = self.positive
        return own if isinstance(own, tuple) else (own, own)

    @model_validator(mode="after")
    def _check_shown(self) -> Self:
        low, high = self.ends
        if low > high:
            raise ValueError(f"positive: the least share first, got {[low, high]}")
        if high > 0 and low == 0:
            raise ValueError("positive: a slide of a label shows it, so its least share is above 0")
        says = self.classes is not None or self.weights is not None
        if high > 0 and not says:
            raise ValueError("positive: say by classes or weights what patches then show")
        if high == 0 and says:
            raise ValueError("classes and weights are of positive patches: set positive above 0")
        return self


class CohortStain(Strict):
    """Stains of patients, drawn around those of real slides."""

    catalog: str | None = Field(None, description="catalog id of stains, such as he-slides")
    measured: MeasuredStains | None = Field(None, description="instead: real images of your own")
    within: float = Field(
        0.25,
        ge=0.0,
        le=2.0,
        description="standard deviation among slides of one patient, in that among the real stains",
    )

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if (self.catalog is None) == (self.measured is None):
            raise ValueError("takes either catalog or measured: set one of them")
        return self


class CohortProfiles(Strict):
    """RNA of patients: a vector of named z-scores, with a spread among patches."""

    pathways: str = Field(
        "hallmark", description="catalog id or file of gene sets, whose names the values have"
    )
    patient: float = Field(1.0, ge=0.0, le=10.0, description="standard deviation among patients")
    patch: float = Field(0.3, ge=0.0, le=10.0, description="likewise among a patient's patches")


class CohortSettings(ConditionSettings):
    """Synthetic patients with slides, whose patches are a bag of one label."""

    kind: Literal["cohort"]
    patients: int = Field(ge=1, le=1_000_000)
    slides: int = Field(1, ge=1, le=1000, description="of each patient")
    patches: int = Field(ge=1, le=1_000_000, description="accepted images of each slide")
    captions: str | None = Field(
        None, min_length=1, description="catalog id of a grid that patches are told in words of"
    )
    per_patient: tuple[str, ...] = Field(
        (), description="attributes of the grid that all patches of a patient share, e.g. organ"
    )
    labels: dict[ClassWord, Label] = Field(min_length=1, description="of patients")
    background: Patches = Field(Patches(), description="what all other patches show")
    splits: dict[SplitName, Fraction] = Field(
        {"train": 0.7, "validation": 0.15, "test": 0.15},
        min_length=1,
        description="split -> share of the patients of each label; a patient is in one",
    )
    stain: CohortStain | None = Field(
        None, description="one of each slide, drawn for its patient; default: as made"
    )
    profiles: CohortProfiles | None = Field(
        None, description="RNA of each patient, of models that take a vector"
    )

    @field_validator("splits")
    @classmethod
    def _check_splits(cls, splits: dict[str, float]) -> dict[str, float]:
        _check_whole(splits)
        return splits

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        _check_whole({name: each.share for name, each in self.labels.items()}, "labels: ")
        if BACKGROUND in self.labels:
            raise ValueError(f"labels: {BACKGROUND} is what patches of no label show: rename")
        if self.patients * self.slides * self.patches > 10_000_000_000:
            raise ValueError("more than 10,000,000,000 patches: ask for less")
        for name, each in self.labels.items():
            if each.values and self.profiles is None:
                raise ValueError(f"labels.{name}.values: are of profiles, which are not asked")
        return self


def _check_whole(shares: Mapping[str, float], what: str = "") -> None:
    """Checks that shares are 1 together.

    Raises:
        ValueError: they are not.
    """
    total = math.fsum(shares.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"{what}shares must be 1 together, got {total:g}")
