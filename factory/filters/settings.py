"""Settings of the quality filters as a recipe names them; `factory.filters` holds their judges."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Strict

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class Thresholds(Strict):
    """A filter's settings; of one score the `min_` is not above the `max_`."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for name in type(self).model_fields:
            if not name.startswith("min_"):
                continue
            other = f"max_{name.removeprefix('min_')}"
            low, high = getattr(self, name), getattr(self, other, None)
            if isinstance(low, float) and isinstance(high, float) and low > high:
                raise ValueError(
                    f"{name} {low:g} lies above {other} {high:g}, so that no image passes: lower "
                    "the one, or raise the other"
                )
        return self


class FiniteFilter(Thresholds):
    """Rejects NaN, blank, saturated and constant images."""

    kind: Literal["finite"]
    min_contrast: float = Field(0.01, ge=0.0, le=1.0, description="grey standard deviation / 255")
    max_saturated_fraction: Fraction = Field(0.5, description="pixels with a channel at 0 or 255")


class TissueFilter(Thresholds):
    """Rejects images with too little tissue."""

    kind: Literal["tissue"]
    min_fraction: Fraction = 0.3


class FocusFilter(Thresholds):
    """Rejects blurred images."""

    kind: Literal["focus"]
    max_blur: Fraction | None = Field(
        None, description="blur effect; of sharp patches of 64 px under 0.62, blurred by 2 px 0.68"
    )
    min_blur: Fraction | None = Field(
        None, description="blur effect; of real patches of 64 px over 0.31, of pure noise 0.25"
    )
    min_sharpness: float | None = Field(
        None, ge=0.0, description="variance of the Laplacian of grey in [0, 1]"
    )
    max_sharpness: float | None = Field(
        None, gt=0.0, description="likewise; noise and salt and pepper lie above"
    )

    @model_validator(mode="after")
    def _check_thresholds(self) -> "FocusFilter":
        bounds = (self.max_blur, self.min_blur, self.min_sharpness, self.max_sharpness)
        if all(bound is None for bound in bounds):
            raise ValueError("no threshold: set max_blur (0.65 suits 64 px) or min_sharpness")
        return self


class StainFilter(Thresholds):
    """Rejects colours that are not haematoxylin and eosin."""

    kind: Literal["stain"]
    min_plausibility: Fraction = 0.5


class ColorCastFilter(Thresholds):
    """Rejects images whose brightest pixels, which should be glass, are tinted."""

    kind: Literal["color_cast"]
    max_cast: float = Field(25.0, ge=0.0, description="CIE chroma of the brightest 5 % of pixels")
    max_tissue_cast: float | None = Field(
        None, gt=0.0, description="where these are tissue: from the colour of pale H&E; 26 suits"
    )


class ClassifierFilter(Thresholds):
    """Rejects images that a classifier of real images does not take for the asked class."""

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


class AgreementFilter(Thresholds):
    """Rejects images on whose class several classifiers do not agree."""

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
    def _check_distinct(self) -> "AgreementFilter":
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models: each classifier once, got {', '.join(self.models)}")
        return self


class ZeroShotFilter(Thresholds):
    """Rejects images that an image-text model does not take for the asked class; no training."""

    kind: Literal["zero_shot"]
    encoder: str = Field(
        min_length=1, description="catalog id, open_clip:hf-hub:OWNER/NAME or :local-dir:FOLDER"
    )
    classes: str = Field(min_length=1, description="catalog id of classes with titles, synonyms")
    templates: tuple[str, ...] | None = Field(
        None, min_length=1, description="prompts with {class_name}; default: six for H&E"
    )
    min_probability: Fraction = Field(0.5, description="of the asked class, not calibrated")
    min_margin: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(
        None, description="probability of the asked class minus the largest other"
    )


class AlignmentFilter(Thresholds):
    """Rejects images that do not show what their caption says."""

    kind: Literal["alignment"]
    encoder: str = Field(
        min_length=1, description="catalog id, open_clip:hf-hub:OWNER/NAME or :local-dir:FOLDER"
    )
    captions: str | None = Field(
        None, min_length=1, description="catalog id or file that distractor captions come from"
    )
    column: str = Field("caption", description="column of the file that holds the caption")
    distractors: int = Field(20, ge=1, le=1000, description="captions ranked with its own")
    seed: int = Field(0, ge=0, description="draws them, for each caption")
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(
        None, description="cosine of image and caption; its level depends on the encoder"
    )
    max_rank: int | None = Field(None, ge=1, description="1: no distractor is nearer")

    @model_validator(mode="after")
    def _check_rank(self) -> "AlignmentFilter":
        if self.max_rank is not None and self.captions is None:
            raise ValueError("max_rank: set captions, which distractors come from")
        if self.max_rank is not None and self.max_rank > self.distractors:
            raise ValueError(f"max_rank: lower it to {self.distractors} (distractors) or less")
        return self


class RealismFilter(Thresholds):
    """Rejects images that lie too far from real ones, or from those of their class; or too near.

    A `*_quantile` bounds where a score lies among those of the real images of the asked class, each
    scored as if it were not in the set: 0.05 for a `min_`, 0.95 for a `max_` keep about 95 % of
    them.
    """

    kind: Literal["realism"]
    images: Path = Field(description="real set: what a reference condition's images may be")
    encoder: str = Field("color-texture", min_length=1, description="image encoder")
    neighbours: int = Field(3, ge=1, le=50, description="k of the nearest neighbours")
    fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")
    limit: int = Field(2000, ge=4, le=10_000, description="most real images used")
    seed: int = Field(0, ge=0, description="chooses them, where there are more")
    image_column: str | None = Field(None, description="column of the images in parquet, arrow")
    group_column: str | None = Field(None, description="patient or slide column")
    group_pattern: str | None = Field(None, description="regex on file names, one (group)")
    min_realism: float | None = Field(None, ge=0.0, description="1: inside the real manifold")
    min_realism_quantile: Fraction | None = None
    max_neighbour_distance: float | None = Field(None, gt=0.0, description="1: usual for real")
    max_neighbour_distance_quantile: Fraction | None = None
    max_mahalanobis_distance: float | None = Field(None, gt=0.0, description="to the asked class")
    max_mahalanobis_distance_quantile: Fraction | None = None
    max_centroid_distance: float | None = Field(
        None, gt=0.0, description="to the asked class's mean; 1: usual for real"
    )
    max_centroid_distance_quantile: Fraction | None = None
    min_authenticity: float | None = Field(None, ge=0.0, description="near 0: a copy; 1: usual")
    min_authenticity_quantile: Fraction | None = None


class TrainingCopyFilter(Thresholds):
    """Rejects images that copy a reference or another named real image."""

    kind: Literal["training_copy"]
    max_similarity: Fraction = 0.95
    images: Path | None = Field(None, description="real set to compare with, besides references")
    held_out: Path | None = Field(
        None, description="test set: not to be copied either, nor shared with what the recipe uses"
    )
    image_column: str | None = Field(None, description="column of the images in parquet, arrow")


class NearDuplicateFilter(Thresholds):
    """Removes near-duplicates within a series of the data set; the earlier request stays."""

    kind: Literal["near_duplicate"]
    max_similarity: Fraction = 0.97


FilterSettings = Annotated[
    FiniteFilter
    | TissueFilter
    | FocusFilter
    | StainFilter
    | ColorCastFilter
    | ClassifierFilter
    | AgreementFilter
    | ZeroShotFilter
    | AlignmentFilter
    | RealismFilter
    | TrainingCopyFilter
    | NearDuplicateFilter,
    Field(discriminator="kind"),
]
