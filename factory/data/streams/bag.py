"""The stream `bag`: the synthetic patient and slide that an image is a patch of, and its label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from factory.core.errors import DamageError
from factory.data.streams.base import RealImages, Row, Stream

if TYPE_CHECKING:
    import pyarrow as pa

BACKGROUND = "background"
"""What a patch shows that does not show what its bag is labelled by."""
COLUMNS = ("patient", "slide", "bag_label", "patch_label", "patch_column", "patch_row")


@dataclass(frozen=True, slots=True)
class Bag(Stream):
    """A patch of a slide; no model is told of it, but seeds follow from it.

    Attributes:
        patient: id; nobody real.
        slide: id.
        label: of patient and slide.
        shows: the label, where the patch shows it, else BACKGROUND.
        column: of the patch in the grid of its slide, from 0.
        row: likewise.
        split: part of the cohort that the patient is in; another one makes no other image.
    """

    name = "bag"
    is_shown = False
    patient: str
    slide: str
    label: str
    shows: str
    column: int
    row: int
    split: str

    def identity(self) -> dict[str, Any]:
        """Returns all but the split."""
        values = (self.patient, self.slide, self.label, self.shows, self.column, self.row)
        return dict(zip(COLUMNS, values, strict=True))

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the bag of a row.

        Raises:
            DamageError: the row does not tell the split.
        """
        if not isinstance(row.get("bag_split"), str):
            raise DamageError("bag: the row does not hold the split of its patient")
        patient, slide, label, shows, column, place = (identity[name] for name in COLUMNS)
        return cls(patient, slide, label, shows, column, place, row["bag_split"])

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns the columns of patient, slide, labels, place and split."""
        import pyarrow as pa

        texts = dict.fromkeys((*COLUMNS[:4], "bag_split"), pa.string())
        return {**texts, **dict.fromkeys(COLUMNS[4:], pa.int32())}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns all but the split."""
        return dict(identity)

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns the split."""
        return {"bag_split": self.split}
