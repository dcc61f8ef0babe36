"""Fields by which a recipe says where real images are, and how they are read."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from factory.catalog.entries import Strict

ImageColumn = Annotated[str | None, Field(description="column of the images in parquet, arrow")]
GroupColumn = Annotated[str | None, Field(description="patient or slide column")]
GroupPattern = Annotated[str | None, Field(description="regex on file names, one (group)")]


class NamedImages(Strict):
    """Real images; some blocks say further columns too."""

    images: Path = Field(
        description="ImageFolder, parquet, WebDataset tars, datasets folder or finished run"
    )
    image_column: ImageColumn = None
    group_column: GroupColumn = None
    group_pattern: GroupPattern = None

    @property
    def columns(self) -> dict[str, Any]:
        """How they are read: further arguments of `list_images`."""
        named = {f"{name}_column" for name in ("image", "label", "caption", "group")}
        return self.model_dump(include={*named, "group_pattern"})
