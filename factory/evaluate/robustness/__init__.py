"""`robustness`: what moves when one thing that was asked for is varied, and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.evaluate import base
from factory.evaluate.figures import align, write_metric
from factory.evaluate.robustness.words import list_asked, write_alone, write_kept

NOT_ALONE = "MOVES TOO"
"""Mark of a measure that moves though another one was asked to."""


class Robustness(base.Evaluation):
    """Measures the dose-response of classifiers and of the pixels over counterfactual families.

    Within a family images share seed and conditions but for one value. How far the mean of a
    measure spreads over the values stands beside a floor: its spread where the values are shuffled
    within every family.
    """

    tier = base.TIERS[3]
    names: ClassVar[Mapping[str, str]] = {
        "shift": "last value minus first, in standard deviations",
        "spread": "largest minus smallest mean",
        "flips": "families in which the predicted class changes",
    }
    hidden = frozenset({"response"})
    drawings = (
        base.Drawing("robustness/response.svg", "Dose-response over counterfactual families"),
    )
    is_optional = True

    class Settings(base.GridSettings):
        """The families, and what is measured in them."""

        kind: Literal["robustness"] = "robustness"
        synthetic: fields.Images = Field(
            description="Finished run of a recipe with `vary`, or its parquet files."
        )
        classifiers: Annotated[
            tuple[str, ...], fields.Option("--classifier", metavar="ID|FOLDER")
        ] = Field((), description="Classifier whose probabilities are measured; may be repeated.")
        out: fields.NewFolder | None = Field(None, description="Folder for the plot.")

    class Result(base.EvaluationResult):
        """What is varied -> measure -> response, spread, floor and shift."""

        synthetic: base.Parts
        varied: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Measures the pixels alone, and plots into the folder of the evaluation."""
        return super().adapt(given, **{"out": given.folder / "robustness", **others})

    def describe_work(self) -> str:
        """Says what is measured."""
        judges = f" and {len(self.settings.classifiers)} classifiers" * bool(
            self.settings.classifiers
        )
        return f"attributes in the pixels{judges}, of every image"

    def tell_written(self) -> str:
        """Says where the plot is."""
        out = self.settings.out
        return "" if out is None else f"plot: {out / 'response.svg'}"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the shift of each measure that moves, or was to move."""
        for name, found in result["varied"].items():
            for measure, each in found["measures"].items():
                if each["moves"] or measure in list_asked(found):
                    beside = f"spread {each['spread']:.3g}, floor {each['floor']:.3g}"
                    words = f"{cls.name_measure('shift')}: {measure} by {name}"
                    marks = _mark(list_asked(found), measure, each)
                    yield base.Row.of(cls.tier, words, each["shift"], beside, marks)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        head = [
            "varied",
            "measure",
            "families",
            "mean by value",
            "spread",
            "floor",
            "JPEG",
            "p",
            "shift, SD",
        ]
        rows, flips, verdicts = [head], [], []
        for name, found in result["varied"].items():
            for measure, each in found["measures"].items():
                means = " ".join(f"{point['mean']:.3g}" for point in each["response"].values())
                marks = _mark(list_asked(found), measure, each)
                rows.append(
                    [
                        name,
                        measure + "".join(f" {mark}" for mark in marks),
                        f"{each['families']:,}",
                        means,
                        f"{each['spread']:.3g}",
                        f"{each['floor']:.3g}",
                        "-" if each.get("noise") is None else f"{each['noise']:.3g}",
                        f"{each['p']:.2g}",
                        write_metric(each["shift"]),
                    ]
                )
            flips += [
                f"{judge}: another class within {write_metric(share)} of families of {name}"
                for judge, share in found["flips"].items()
            ]
            verdicts += [write_alone(name, found), write_kept(name, found)]
        level = result["settings"]["level"]
        lines = [
            f"{result['synthetic']['images']:,} images of {result['synthetic']['path']}",
            *align(rows),
            "floor: 95 % of spreads with the values shuffled within families; moves: p below "
            f"{level:.2g} (0.05 over {result['settings']['tests']} tests); [95 % over families]; "
            "JPEG: what saving as JPEG changes in one image",
            *filter(None, verdicts),
            *flips,
        ]
        return lines


def _mark(own: Sequence[str], measure: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what to say of a measure: that it was asked to move, or moves though it was not."""
    if measure in own:
        return ("ASKED",) if found["moves"] else ("ASKED, DOES NOT MOVE",)
    return (NOT_ALONE,) if found["moves"] else ()
