"""Settings of `train layout`."""

from typing import Annotated

from pydantic import Field

from factory.core.fields import Option, Options, Seed
from factory.data.label_maps import Values


class LayoutSettings(Options):
    """How a layout is fitted."""

    names: Annotated[tuple[str, ...], Option("--name")] = Field(
        ("nucleus",), min_length=1, description="What the ids 1, 2, ... mark, in their order."
    )
    values: Values = Field(
        "ids",
        description="Ids: connected parts are objects; objects: 1 .. n, all of the one name; "
        "coded: id * 1000 + n.",
    )
    classes: Annotated[tuple[str, ...], Option("--class")] = Field(
        (), description="Classes to fit; default: all."
    )
    most_masks: int = Field(200, ge=4, le=100_000, description="Masks of a class to fit to.")
    most_shapes: int = Field(300, ge=10, le=10_000, description="Outlines of a class to keep.")
    rounds: int = Field(6, ge=1, le=50, description="Corrections of the interaction.")
    seed: Seed = Field(0, description="Of what is drawn while fitting.")
    mpp: float | None = Field(None, gt=0, le=1000, description="µm per pixel of the masks.")
    mask_column: str | None = Field(None, description="Column of the masks in parquet.")
    label_column: str | None = Field(None, description="Column of the class; default: the folders.")
    source: str = Field("", description="What the masks are, for those who use the layout.")
    licence: Annotated[str | None, Option("--license")] = Field(
        None, description="Id of their licence, e.g. cc-by-4.0: outlines are theirs."
    )
    date_read: str | None = Field(
        None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="When you read it."
    )
    attribution: tuple[str, ...] = Field((), description="Whom it asks to name.")
