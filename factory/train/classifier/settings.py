"""Settings of `train classifier`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.train.classifier.heads import HeadKind


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How a classifier is fitted.

    Attributes:
        encoder: see `factory.models.encoders`; or `small-resnet`.
        head: `logistic`, `knn`, `prototype`, or `auto`; see `choose_head`.
        image_size: px of the square that images are brought to; default: the smallest side found.
        fit: centre `crop` (keeps mpp) or `resize`.
        seed: of folds and of training from scratch.
        group_column: column with the patient or slide (of parquet and the like, or of metadata).
        group_pattern: regular expression on file names; its first group is the patient or slide.
        image_column: column of the images in parquet and arrow; default: `image`, or the only one.
        label_column: column of the class.
        test: images to report on besides, never fitted on.
        precisions: to table thresholds for, besides the usual ones.
        force: write a classifier that does no better than chance, too.
        epochs: of training from scratch.
    """

    encoder: str = "color-texture"
    head: HeadKind = "auto"
    image_size: int | None = None
    fit: Literal["crop", "resize"] = "crop"
    seed: int = 0
    group_column: str | None = None
    group_pattern: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    test: Path | None = None
    precisions: Sequence[float] = ()
    force: bool = False
    epochs: int = 40
