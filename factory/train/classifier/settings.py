"""Settings of `train classifier`."""

from typing import Annotated, Literal

from pydantic import Field

from factory.core.fields import (
    Fit,
    GroupColumn,
    GroupPattern,
    ImageColumn,
    Images,
    Option,
    Options,
    Seed,
)

HeadKind = Literal["auto", "logistic", "knn", "prototype"]
Precision = Annotated[float, Field(gt=0.0, lt=1.0)]


class ClassifierSettings(Options):
    """How a classifier is fitted."""

    test: Images | None = Field(None, description="Held-out images to report on, never fitted on.")
    encoder: str = Field("color-texture", description="Encoder id, or small-resnet.")
    head: HeadKind = Field(
        "auto", description="Auto: prototypes under 6 images of a class, else by cross-validation."
    )
    image_size: Annotated[int | None, Option("--size")] = Field(
        None, ge=16, le=1024, description="px; default: as they are."
    )
    fit: Fit = Field("crop", description="Crop keeps mpp.")
    image_column: ImageColumn = None
    label_column: str | None = Field(
        None, description="Column of the class; default: the folders, or label."
    )
    group_column: GroupColumn = None
    group_pattern: GroupPattern = None
    precisions: Annotated[tuple[Precision, ...], Option("--precision")] = Field(
        (),
        description="Print and table each class's threshold for it (printed: 0.9; tabled: the "
        "usual ones).",
    )
    force: bool = Field(False, description="Write a classifier no better than chance, too.")
    seed: Seed = Field(0, description="Of folds and of training from scratch.")
    epochs: Annotated[int, Option(is_hidden=True)] = Field(
        40, ge=1, description="Of training from scratch."
    )
