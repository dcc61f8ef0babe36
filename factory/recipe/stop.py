"""`budget.stop`: when a series ends although it was asked for more images."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.core.metrics.growing import GROUPS
from factory.data.images.fields import NamedImages
from factory.models.encoders import EncoderSpec


class Stop(NamedImages):
    """Ends a series when its newest images no longer change how far it is from real ones.

    After each further `every` requests the accepted images are compared with and without the newest
    block of them. The series ends there if the interval of what the block changed of the distance,
    as a share of it, lies within the tolerance on both sides.
    """

    when: Literal["fidelity"] = Field(description="fidelity: kernel distance to real images")
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
        0.02, gt=0.0, lt=1.0, description="share of the distance that a block may change"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="of the interval of that change")
    fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")
    limit: int = Field(2000, ge=GROUPS, le=10_000, description="most real images used")
    seed: int = Field(0, ge=0, description="chooses them, where there are more")

    def summarise(self) -> dict[str, Any]:
        """Returns it without where the real images lie."""
        kept = {"when", "every", "encoder", "tolerance", "confidence", "fit", "limit", "seed"}
        return self.model_dump(mode="json", include=kept)
