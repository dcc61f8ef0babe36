"""`translation`: how near predicted channels or stains are to the real ones of the same places."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.evaluate import base
from factory.evaluate.figures import align, write_metric

SHOWN = ("pearson_patch", "pearson_slide", "ssim", "psnr", "positive_share", "auroc")
"""Metrics in tables, in their order."""


class Translation(base.Evaluation):
    """Compares predicted images with the real ones of the same places, channel by channel.

    Pearson of the means of patches and slides with a permutation test, SSIM and PSNR, each beside
    what a constant image and the predictions of other patches get; with masks of nuclei the share
    of positive ones and the AUROC of telling them.
    """

    tier = base.TIERS[0]
    names: ClassVar[Mapping[str, str]] = {
        "pearson_patch": "Pearson r over patches",
        "pearson_slide": "Pearson r over slides",
        "ssim": "SSIM",
        "psnr": "PSNR (dB)",
        "positive_share": "Pearson r of positive nuclei's share",
    }
    hidden = frozenset({"controls", "passed_over"})
    is_optional = True

    class Settings(base.EvaluationSettings):
        """The two sides, and what is known of each place."""

        kind: Literal["translation"] = "translation"
        predicted: fields.Images = Field(
            description="Predicted: folder of .npy (C, H, W), OME-TIFF or RGB images, or a run."
        )
        target: fields.Images = Field(
            description="Real ones: a folder likewise; files of one relative name are a pair."
        )
        sources: fields.Images | None = Field(
            None, description="Real images that a run translated, named as the targets are."
        )
        table: Annotated[Path, fields.Option(takes="images")] | None = Field(
            None, description="CSV: key, patient, slide, and label_CHANNEL of 0 and 1."
        )
        group_pattern: Annotated[str | None, Field()] = Field(
            None, description="Regex on keys, whose (group) is the patient; instead of --table."
        )
        masks: fields.Images | None = Field(
            None, description="Folder of label maps of nuclei, named as the targets are."
        )
        channels: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
            (), description="Names, in their order; default: those of the run, else numbers."
        )
        seed: fields.Chance = 0

    class Result(base.EvaluationResult):
        """Channel -> metrics, each with its controls."""

        channels: base.Parts
        pairs: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Compares the run with `targets`; its sources are the held-out images.

        Raises:
            InputError: no targets are given.
        """
        if given.targets is None:
            raise InputError("needs real targets of the same places: give --targets")
        found = {"predicted": given.synthetic, "target": given.targets, "sources": given.test}
        return super().adapt(given, **{**found, **others})

    def describe_work(self) -> str:
        """Says what is measured."""
        return "every pair of predicted and real images, channel by channel"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the metrics of each channel, each beside its control."""
        for channel, metrics in result["channels"].items():
            for name in SHOWN:
                if name not in metrics:
                    continue
                shuffled = result["controls"][channel]["shuffled"].get(name)
                beside = "" if shuffled is None else f"other patches' {shuffled['value']:.3g}"
                p = metrics[name].get("p")
                beside += "" if p is None else f"{', ' if beside else ''}p {p:.2g}"
                measure = f"{cls.name_measure(name)}, {channel}"
                yield base.Row.of(cls.tier, measure, metrics[name], beside)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        pairs = result["pairs"]
        head = ["channel", *(cls.name_measure(name) for name in SHOWN)]
        rows = [head]
        for channel, metrics in result["channels"].items():
            rows.append([channel, *(_show(metrics.get(name)) for name in SHOWN)])
            for control in ("mean image", "shuffled"):
                found = result["controls"][channel][control]
                rows.append([f"  {control}", *(_show(found.get(name)) for name in SHOWN)])
        groups = pairs["groups"]
        unit = f"images, as {groups or 'no'} patients are known: 4 are the least, of all pairs"
        if result["settings"]["unit"] == "group":
            unit = f"{groups} patients"
        return [
            f"{pairs['pairs']:,} pairs of {pairs['slides'] or 'unknown'} slides; 95 % over {unit}",
            *align(rows),
        ]


def _show(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "-"
    p = metric.get("p")
    return write_metric(metric) + ("" if p is None else f" p {p:.2g}")
