"""Settings of a search for the recipe that helps a few shots most."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from factory.core import fields
from factory.core.duration import parse_duration
from factory.evaluate import DEFAULT_ENCODER
from factory.evaluate.fewshot.settings import LEARNERS, ShotOptions, Shots, StudySettings


class TuneSettings(ShotOptions):
    """The shots, what is tried, how it is measured, and for how long."""

    real: fields.Images = Field(description="Real labelled images; a test set stays elsewhere.")
    out: fields.NewFile = Field(description="Recipe to write; all else lands in NAME-tune beside.")
    shots: Shots | None = Field(
        None, description="Of each class; default: those of the recipe, else all images."
    )
    budget: str = Field("30m", description="Time of this call, e.g. 90s, 30m, 2h.")
    trials: int = Field(24, ge=1, le=10_000, description="Configurations, by chance, that differ.")
    space: Annotated[Path | None, fields.Option(metavar="FILE")] = Field(
        None, description="YAML of what is tried: field of the recipe -> list of choices."
    )
    heads: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        ("logistic", "prototype"),
        description="Comma-separated classifiers, of which each arm chooses inside its shots: "
        f"{', '.join(LEARNERS)}.  [default: logistic, prototype]",
    )
    features: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        (DEFAULT_ENCODER,),
        description=f"Comma-separated frozen encoders of the heads.  [default: {DEFAULT_ENCODER}]",
    )
    unlabelled: fields.Images | None = Field(
        None, description="Real images of other slides, whose classes are not read."
    )
    folds: int = Field(3, ge=2, le=100, description="Of the shots; patients stay whole.")
    repeats: int = Field(2, ge=1, le=100, description="Of the folds, cut anew; so is the check.")
    size: fields.Pixels = Field(64, description="px of the square that heads see.")
    fit: fields.Fitted = "crop"
    workers: fields.Workers | None = Field(
        None, description="Trials side by side; default: one for each of several GPUs."
    )
    device: fields.Device = "auto"
    set_name: str | None = Field(None, description="What catalog entries call this set.")
    force: bool = Field(False, description="Go on with a model that saw labels, and say so.")
    image_column: fields.ImageColumn = None
    group_column: fields.GroupColumn = None
    group_pattern: fields.GroupPattern = None

    @property
    def folder(self) -> Path:
        """Where everything but the recipe lands."""
        return self.out.absolute().with_name(f"{self.out.stem}-tune")

    @property
    def seconds(self) -> float:
        """The budget.

        Raises:
            InputError: no duration.
        """
        return parse_duration(self.budget)

    def as_study(self, per_class: int | None, seed: int) -> StudySettings:
        """Returns the settings of a few-shot study that trains and tunes as asked."""
        same = {"features", "folds", "size", "fit", "device", "set_name", "force"}
        kept = {name: getattr(self, name) for name in same}
        return StudySettings(seeds=1, first_seed=seed, per_class=per_class, tune=self.heads, **kept)
