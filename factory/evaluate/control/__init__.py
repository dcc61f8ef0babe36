"""`control`: whether images show what their captions ask for, measured in the pixels."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.evaluate import base
from factory.evaluate.figures import align


class Control(base.Evaluation):
    """Measures attributes in the pixels and compares them with what the captions ask for."""

    names: ClassVar[Mapping[str, str]] = {
        "rho": "Spearman's rho",
        "same_bin": "share in the asked bin",
        "within_one_bin": "share within one bin",
    }
    is_optional = True

    class Settings(base.GridSettings):
        """The images, and the grid that their captions follow."""

        kind: Literal["control"] = "control"
        synthetic: fields.Images = Field(
            description="Captioned images: finished run, parquet, WebDataset tars."
        )

    class Result(base.EvaluationResult):
        """Attribute -> rho and shares, beside what ignoring the captions would give."""

        synthetic: base.Parts
        attributes: base.Parts
        not_asked: base.Texts

    settings: Settings

    def describe_work(self) -> str:
        """Says what is measured."""
        return "what captions ask for, measured in every image"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields rho of each attribute."""
        for name, found in result["attributes"].items():
            ignored = found["if_ignored"]["same_bin"]
            beside = f"same bin {found['same_bin']['mean']:.2f}, if ignored {ignored:.2f}"
            marks = () if found["exceeds_chance"] else ("NOT ABOVE CHANCE",)
            measure = f"Spearman rho of {name} ({found['images']:,} images)"
            yield base.Row.of(base.TIERS[3], measure, found["rho"], beside, marks)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        return describe_control(result)


def describe_control(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    head = ["attribute", "images", "Spearman rho", "within one bin", "if ignored", "same bin"]
    rows = [[*head, "if ignored"]]
    for name, found in result["attributes"].items():
        chance = found["if_ignored"]
        rows.append(
            [
                name,
                f"{found['images']:,}",
                _show(found["rho"]) + ("" if found["exceeds_chance"] else " (not above chance)"),
                _show(found["within_one_bin"]),
                f"{chance['within_one_bin']:.2f}",
                _show(found["same_bin"]),
                f"{chance['same_bin']:.2f}",
            ]
        )
    settings, images = result["settings"], result["synthetic"]
    lines = [
        f"{images['images']:,} images of {images['path']}, {images['size']} px; what the captions "
        f"ask for by {settings['grid']}, measured in the pixels; 95 % over images",
        *align(rows),
    ]
    if result["not_asked"]:
        lines.append("not asked for, or too seldom: " + ", ".join(result["not_asked"]))
    return lines


def _show(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
