"""`budget.stop`: when a series ends although it was asked for more images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from factory.core.metrics.growing import GROUPS
from factory.data.images.fields import NamedImages
from factory.models.encoders import EncoderSpec

if TYPE_CHECKING:
    from factory.data.summary import StopTest


@dataclass(frozen=True, slots=True)
class Figure:
    """What a test looks at.

    Attributes:
        name: said in a card.
        short: said of a test.
        is_joint: whether all series together give it.
        is_distance: whether less of it is better, and its change is told as a share of it.
    """

    name: str
    short: str
    is_joint: bool
    is_distance: bool

    def write(self, test: "StopTest") -> str:
        """Returns what a test found of its change, with the interval; empty where it told none."""
        if test.change is None or test.low is None or test.high is None or test.after is None:
            return ""
        if self.is_distance:
            return f"{-test.change:+.2%} ({-test.high:+.2%} to {-test.low:+.2%})"
        change, low, high = (f"{100 * each:+.2f}" for each in (test.change, test.low, test.high))
        over = f", over {test.units:,} {test.by}"
        return f"{change} points to {test.after:.2%} ({low} to {high}{over})"

    def write_tolerance(self, tolerance: float) -> str:
        """Returns the most that may change."""
        return f"{tolerance:.2%}" if self.is_distance else f"{100 * tolerance:.2f} points"


FIGURES = {
    "fidelity": Figure(
        "the kernel distance to real images", "the distance", is_joint=False, is_distance=True
    ),
    "utility": Figure(
        "the balanced accuracy (in points of 100) with which a classifier that learns from all "
        "series tells real images",
        "the balanced accuracy on real images",
        is_joint=True,
        is_distance=False,
    ),
}
"""What `when` names."""


class Stop(NamedImages):
    """Ends series when their newest images no longer change a figure that real images give.

    After each further `every` requests the accepted images are looked at with and without the
    newest block of them. A series ends there if the interval of what the block changed of the
    figure lies within the tolerance on both sides; for utility, all series do at once.
    """

    when: Literal["fidelity", "utility"] = Field(
        description="fidelity: kernel distance to real images; utility: balanced accuracy on them, "
        "of a classifier that learns from all series"
    )
    every: int = Field(
        1000, ge=GROUPS, description="requests of a block; the first test comes after two"
    )
    images: Path = Field(
        description="real set: ImageFolder, parquet, tars or datasets folder; of its classes that "
        "of the series; never the images that you test on"
    )
    encoder: EncoderSpec = Field(
        "color-texture", min_length=1, description="image encoder; a judge like that of a filter"
    )
    tolerance: float = Field(
        0.02,
        gt=0.0,
        lt=1.0,
        description="change by a block: of the distance as a share of it, or of the accuracy",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="of the interval of that change")
    fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")
    limit: int = Field(2000, ge=GROUPS, le=10_000, description="most real images used")
    seed: int = Field(0, ge=0, description="chooses them, where there are more")

    @property
    def is_joint(self) -> bool:
        """Whether all series are decided together, by one figure."""
        return FIGURES[self.when].is_joint

    def summarise(self) -> dict[str, Any]:
        """Returns it without where the real images lie."""
        kept = {"when", "every", "encoder", "tolerance", "confidence", "fit", "limit", "seed"}
        return self.model_dump(mode="json", include=kept)
