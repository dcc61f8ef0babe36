"""`privacy`: whether synthetic images give away which real images they were made from."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.evaluate import DEFAULT_ENCODER, base
from factory.evaluate.figures import align, write_metric

ATTACKS = {
    "distance": "nearness of features to the nearest synthetic image",
    "similarity": "largest similarity to a synthetic image, as of the filter training_copy",
}
TOLD = "TOLD APART"
"""Mark of an attack whose interval lies above chance."""


class Privacy(base.Evaluation):
    """Attacks membership: tells images that were used from those of patients held out.

    Who sees the synthetic images alone ranks real images by how near a synthetic one lies. The area
    under the ROC curve is 0.5 where that tells nothing; intervals are over whole patients.
    """

    tier = base.COPIES
    names: ClassVar[Mapping[str, str]] = {
        "auroc": "AUROC of the attack",
        **{name: f"membership by {words}" for name, words in ATTACKS.items()},
    }
    sources: ClassVar[Mapping[str, str]] = {"real": "members", "held-out": "held_out"}
    is_optional = True

    class Settings(fields.SetOptions, base.EvaluationSettings):
        """The sets, and with what they are compared."""

        kind: Literal["privacy"] = "privacy"
        real: fields.Images = Field(
            description="Real images that were used; of those, the ones that rows vary, if any do."
        )
        held_out: fields.Images = Field(
            description="Real images of the same source, of patients that nothing used."
        )
        synthetic: fields.Images = Field(description="Finished run, or any images.")
        encoder: Annotated[str, fields.Option(metavar="SPEC")] = Field(
            DEFAULT_ENCODER, description="Catalog id, LIBRARY:NAME or folder."
        )

    class Result(base.EvaluationResult):
        """Attack -> area under the curve, and what was attacked."""

        scope: str = ""
        members: base.Parts
        held_out: base.Parts
        attacks: base.Parts
        encoder: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Takes the test images for held out.

        Raises:
            InputError: there are none.
        """
        if getattr(given, "test", None) is None:
            raise InputError("needs real images of patients that nothing used: give --test")
        return super().adapt(given, **{"held_out": given.test, **others})

    def describe_work(self) -> str:
        """Says with what the images are encoded."""
        return f"all images encoded by {self.settings.encoder}, once"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields each attack beside chance."""
        for name, found in result["attacks"].items():
            marks = (TOLD,) if found["auroc"]["low"] > 0.5 else ()
            measure = f"AUROC of membership by {ATTACKS.get(name, name)}"
            yield base.Row.of(cls.tier, measure, found["auroc"], "chance 0.5", marks)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        rows = [["attack", "AUROC [95 %]", ""]]
        for name, found in result["attacks"].items():
            told = TOLD if found["auroc"]["low"] > 0.5 else "not above chance"
            rows.append([ATTACKS.get(name, name), write_metric(found["auroc"]), told])
        return [f"{result['scope']}; 0.5 is chance", *align(rows)]

    @classmethod
    def tell_copies(cls, result: Mapping[str, Any]) -> str:
        """Returns the areas, for the card's section on memorisation."""
        areas = (
            f"by {name} AUROC {write_metric(found['auroc'])}"
            for name, found in result["attacks"].items()
        )
        return f"membership of {result['scope']}: {'; '.join(areas)} (0.5 is chance)"
