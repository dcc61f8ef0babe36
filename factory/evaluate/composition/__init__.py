"""`composition`: whether synthetic images show the mix of cell types of real ones."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.evaluate import DEFAULT_ENCODER, base
from factory.evaluate.figures import align, write_metric

BLIND = "HEAD BLIND"
"""Mark of a cell type that the head does not tell on patients that it was not fitted on."""


class Composition(base.Evaluation):
    """Compares cell-type proportions, predicted from the images, of synthetic and real ones.

    A ridge regression from an encoder's features to the proportions of spots is fitted on training
    patients. Wasserstein distances of its predictions on synthetic images and on real ones of
    patients held out stand beside those of real images among themselves.
    """

    tier = base.TIERS[1]
    names: ClassVar[Mapping[str, str]] = {
        "distance": "Wasserstein distance",
        "floor": "real against real",
        "other_patients": "real ones of training patients",
        "head_rho": "Spearman rho of the head on held-out patients",
    }
    hidden = frozenset({"means"})
    is_optional = True

    class Settings(base.EvaluationSettings):
        """The spots, the images to compare, and what they are compared with."""

        kind: Literal["composition"] = "composition"
        synthetic: fields.Images = Field(description="Finished run, or any images.")
        spots: Annotated[Path, fields.Option(takes="images")] = Field(
            description="CSV of real spots: image (path beside it), patient, split, proportions."
        )
        prefix: str = Field("prop_", min_length=1, description="Of the columns of proportions.")
        group_column: str = Field("section", description="Spots that hang together, or patient.")
        held_out: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
            (), description="Patients held out; default: those of split test."
        )
        encoder: Annotated[str, fields.Option(metavar="SPEC")] = Field(
            DEFAULT_ENCODER, description="Image encoder."
        )
        size: fields.Pixels = Field(64, description="px of all images.")
        fit: fields.Fitted = "resize"
        cache: fields.NewFolder | None = Field(None, description="Folder to keep features in.")
        seed: fields.Chance = 0
        catalogs: fields.CatalogFolders = ()

    class Result(base.EvaluationResult):
        """Cell type -> distances, the head's rho and mean proportions."""

        cell_types: base.Parts
        spots: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Compares the run with the spots that are given.

        Raises:
            InputError: none are.
        """
        if given.spots is None:
            raise InputError("needs real spots with cell-type proportions: give --spots")
        return super().adapt(given, **{"fit": "resize", **others})

    def describe_work(self) -> str:
        """Says with what the images are encoded."""
        return f"spots and synthetic images encoded by {self.settings.encoder}, once"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the distance of each cell type, beside that of real images."""
        for name, found in result["cell_types"].items():
            floor = found["floor"]
            other = found["other_patients"]["value"]
            beside = f"real against real {floor['value']:.3g}, other patients' {other:.3g}"
            weak = {BLIND: found["is_blind"], "CIRCULAR": result["circular"]}
            marks = tuple(mark for mark, is_so in weak.items() if is_so)
            measure = f"Wasserstein distance of {name}"
            yield base.Row.of(cls.tier, measure, found["distance"], beside, marks)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        spots = result["spots"]
        head = ["cell type", "head's rho", "distance", "real against real", "other patients"]
        rows = [[*head, "mean synthetic", "mean real", "as given"]]
        for name, found in result["cell_types"].items():
            means = found["means"]
            rows.append(
                [
                    f"{name} {BLIND}" if found["is_blind"] else name,
                    write_metric(found["head_rho"]),
                    write_metric(found["distance"]),
                    write_metric(found["floor"]),
                    write_metric(found["other_patients"]),
                    *(f"{means[key]:.3f}" for key in ("synthetic", "real", "given")),
                ]
            )
        return [
            f"head fitted on {spots['train']:,} spots of {spots['train_patients']} patients, "
            f"compared on {spots['held_out']:,} of {spots['held_out_patients']}; "
            f"{result['settings']['draw']} images of each side a draw",
            *align(rows),
            "[95 % of draws]; HEAD BLIND: its rho on held-out patients is not above 0",
        ]
