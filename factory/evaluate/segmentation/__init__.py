"""`segmentation`: what a segmenter learns from synthetic images and their masks."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.data.label_maps import Values
from factory.evaluate import base
from factory.evaluate.figures import align, write_metric

METRICS = {"dice": "Dice", "aji": "aggregated Jaccard index", "pq": "panoptic quality"}
ARMS = ("real", "synthetic", "real+synthetic")
Id = Annotated[int, Field(ge=1)]
NETWORK_MULTIPLE = 32
"""Sides of images are multiples of it: the network halves them five times."""


class Segmentation(base.Evaluation):
    """Trains a segmenter on real masks, on synthetic images and their masks, and on both.

    A U-Net learns the same number of steps in every arm, several times, and is tested on real
    images of other patients: Dice, aggregated Jaccard index and panoptic quality, paired.
    """

    tier = base.TIERS[2]
    names: ClassVar[Mapping[str, str]] = {**METRICS, "share": "share of real's"}
    hidden = frozenset({"by_seed"})
    sources: ClassVar[Mapping[str, str]] = {
        name: f"settings.{name.replace('-', '_')}"
        for name in ("real", "masks", "test", "test-masks")
    }
    is_optional = True

    class Settings(base.EvaluationSettings):
        """Images with masks of the three sides, and how the segmenter is trained."""

        kind: Literal["segmentation"] = "segmentation"
        real: fields.Images = Field(description="Real training images.")
        masks: fields.Images | None = Field(
            None, description="Label maps named as --real are; default: the column mask of rows."
        )
        test: fields.Images = Field(description="Real images of other patients.")
        test_masks: fields.Images | None = Field(
            None, description="Label maps named as --test are; default: the column mask of rows."
        )
        synthetic: fields.Images = Field(
            description="Finished run of conditions with masks: mask, layout."
        )
        values: Values = Field(
            "ids",
            description="Of real masks: ids; objects 1 .. n; or coded, id * 1000 + n.",
        )
        ids: Annotated[tuple[Id, ...], fields.Option(takes="list")] = Field(
            (), description="Of all masks, those that are segmented; default: all but 0."
        )
        steps: fields.Count = Field(400, description="Of each training.")
        batch_size: int = Field(16, ge=2, le=4096, description="Images of a step.")
        learning_rate: fields.Rate = Field(0.002, description="Of Adam, falling to 0.")
        width: int = Field(24, ge=4, le=256, description="Channels of the outermost level.")
        seeds: fields.Draws = Field(3, description="Trainings of each arm.")
        mix: Literal["pooled", "balanced"] = Field(
            "balanced", description="Of real and synthetic: all alike, or half of each batch."
        )
        image_column: fields.ImageColumn = None
        group_column: fields.GroupColumn = None
        group_pattern: fields.GroupPattern = None
        size: fields.Pixels = Field(128, description="px of all images, a multiple of 32.")
        fit: fields.Fitted = "crop"
        out: fields.StudyFolder = None
        device: fields.Device = "auto"
        seed: fields.Chance = 0

    class Result(base.EvaluationResult):
        """Arm -> metrics, their differences, and synthetic's share of real's."""

        arms: base.Parts
        paired: base.Parts
        share: base.Parts
        by_seed: base.Parts
        test: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Takes the masks that are given.

        Raises:
            InputError: none are, or the size does not fit.
        """
        if given.masks is None or given.test_masks is None:
            raise InputError("needs label maps of the real images: give --masks, --test-masks")
        default = cls.Settings.model_fields["steps"].default
        kept = {"steps": given.steps or default, "out": given.folder / "segmentation"}
        return super().adapt(given, **{**kept, **others})

    def describe_work(self) -> str:
        """Says how often the network is trained."""
        settings = self.settings
        return (
            f"{len(ARMS)} arms x {settings.seeds} seeds: a U-Net of {settings.size} px trained for "
            f"{settings.steps} steps in each"
        )

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the metrics of each arm beside real's, and the differences from it."""
        for arm, metrics in result["arms"].items():
            for name in METRICS:
                measure = f"{cls.name_measure(name)} of a segmenter of {arm}"
                beside = "" if arm == "real" else f"real {result['arms']['real'][name]['mean']:.3f}"
                yield base.Row.of(cls.tier, measure, metrics[name], beside)
        for pair, metrics in result["paired"].items():
            for name in METRICS:
                yield base.Row.of(cls.tier, f"{cls.name_measure(name)}, {pair}", metrics[name])

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        test, settings = result["test"], result["settings"]
        rows = [["trained on", "images", *(cls.name_measure(name) for name in METRICS)]]
        for arm, metrics in result["arms"].items():
            figures = (write_metric(metrics[name]) for name in METRICS)
            rows.append([arm, f"{metrics['images']:,}", *figures])
        for part in ("paired", "share"):
            for pair, metrics in result[part].items():
                rows.append([pair, "", *(write_metric(metrics[name]) for name in METRICS)])
        unit = "images" if test["unit"] == "image" else f"{test['groups']} patients or slides"
        return [
            f"{test['images']:,} real test images with {test['objects']:,} objects; "
            f"{settings['steps']} steps of {settings['batch_size']} images in every arm, "
            f"{settings['seeds']} seeds; 95 % over {unit} and seeds",
            *align(rows),
        ]
