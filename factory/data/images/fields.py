"""Fields by which a recipe says how the real images that it names are read."""

from typing import Annotated

from pydantic import Field

ImageColumn = Annotated[str | None, Field(description="column of the images in parquet, arrow")]
GroupColumn = Annotated[str | None, Field(description="patient or slide column")]
GroupPattern = Annotated[str | None, Field(description="regex on file names, one (group)")]
