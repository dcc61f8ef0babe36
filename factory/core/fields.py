"""Fields of settings that stand for options of commands, each with its help and bounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.core.errors import InputError

Takes = Literal[
    "images", "folder", "folder or URL", "recipe", "new file", "new folder", "list", "evaluation"
]
MANY = 10**9
"""The most of anything that is counted."""


@dataclass(frozen=True, slots=True)
class Option:
    """How a field stands on the command line, where its name and type do not say it.

    Attributes:
        name: e.g. `--encoder`; None: that of the field.
        takes: what a path must be, or `list`: values with commas between them.
        metavar: what stands for the value in the help.
        is_hidden: of the Python API alone.
    """

    name: str | None = None
    takes: Takes | None = None
    metavar: str | None = None
    is_hidden: bool = False


Images = Annotated[Path, Option(takes="images")]
Folder = Annotated[Path, Option(takes="folder")]
NewFile = Annotated[Path, Option(takes="new file")]
NewFolder = Annotated[Path, Option(takes="new folder")]
Pixels = Annotated[int, Field(ge=8, le=8192)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""All that every library takes as a seed."""
Count = Annotated[int, Field(ge=1, le=MANY)]
Fit = Literal["crop", "resize"]
Draws = Annotated[int, Field(ge=1, le=1000)]
Workers = Annotated[int, Field(ge=1, le=100_000)]
Rate = Annotated[float, Field(gt=0.0, le=MANY)]
Size = Annotated[
    Pixels | None,
    Field(description="px of all images; default: the smallest side of the synthetic ones."),
]
Fitted = Annotated[Fit, Field(description="crop keeps the scale (mpp), resize the content.")]
ImageColumn = Annotated[
    str | None,
    Field(description="Column of the real images in parquet; default: image, or the only one."),
]
GroupColumn = Annotated[
    str | None, Field(description="Column of the real images with the patient or slide.")
]
GroupPattern = Annotated[
    str | None, Field(description="Regex on real file names, whose (group) is the patient.")
]
Chance = Annotated[Seed, Field(description="Of choices and intervals.")]
CatalogFolders = Annotated[
    tuple[Path, ...], Option("--catalog"), Field(description="User catalog folder.")
]
StudyFolder = Annotated[
    NewFolder | None, Field(description="Folder that keeps what is done, to resume.")
]
Device = Annotated[str, Field(description="Torch device.")]


class Options(BaseModel):
    """Settings whose fields are options of a command too: each with its help and bounds."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )

    def __init__(self, **given: Any) -> None:
        """Checks the values.

        Raises:
            InputError: every value that is out of bounds, by its option.
        """
        try:
            super().__init__(**given)
        except ValidationError as error:
            lines = [
                f"--{'-'.join(map(str, each['loc'])).replace('_', '-')}: {each['msg']}, got "
                f"{each['input']!r}"
                for each in error.errors(include_url=False)
            ]
            raise InputError("\n".join(lines)) from error


class SetOptions(Options):
    """How sets are read that an encoder compares, and where their features are kept."""

    size: Size = None
    fit: Fitted = "crop"
    image_column: ImageColumn = None
    group_column: GroupColumn = None
    group_pattern: GroupPattern = None
    cache: NewFolder | None = Field(None, description="Folder to keep features in.")
    seed: Chance = 0
    device: Annotated[str, Option(is_hidden=True)] = "auto"
