"""How a table of gene expression is read and scored."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from factory.core.fields import CatalogFolders, Option, Options

MILLION = 1e6
Method = Literal["ssgsea", "mean_z"]


class ExpressionSettings(Options):
    """How a table of gene expression is read and scored."""

    sets: str = Field(
        min_length=1,
        description="Gene sets: a catalog id (hallmark), a .gmt file, or a .csv whose columns are "
        "sets.",
    )
    method: Method = Field(
        "ssgsea",
        description="ssgsea after Barbie et al. 2009, or the mean z-score of a set's genes.",
    )
    values: Literal["auto", "counts", "tpm", "log"] = Field(
        "auto", description="What the table holds; counts and tpm become log1p of --target-sum."
    )
    target_sum: float = Field(
        MILLION,
        ge=1.0,
        le=1e9,
        description="What a sample's counts or TPM add up to before log1p: 1e6, or 1e4 for spots "
        "and cells, of few reads.",
    )
    genes: Literal["auto", "columns", "rows"] = Field(
        "auto", description="Where the genes stand; auto: where more are of the sets."
    )
    id_column: str | None = Field(None, description="Names of the samples; default: the first.")
    keep: Annotated[tuple[str, ...], Option("--keep", takes="list")] = Field(
        (),
        description="Columns to hand on, e.g. patient,class_name; with genes in rows, those to "
        "leave out, as they describe genes.",
    )
    keep_all: bool = Field(False, description="Drop no mitochondrial and housekeeping genes.")
    min_coverage: float = Field(
        0.5, ge=0.0, le=1.0, description="Share of a set's genes that must be there."
    )
    min_genes: int = Field(5, ge=1, le=10_000, description="Likewise their number.")
    on_low: Literal["nan", "refuse"] = Field(
        "nan", description="What a set with fewer becomes: NaN, or the whole is refused."
    )
    like: Annotated[Path | None, Option(takes="new file")] = Field(
        None,
        description="Scores of other samples, e.g. of the training patients, by whose genes' "
        "means, deviations and range these are scaled.",
    )
    within: str | None = Field(
        None,
        min_length=1,
        description="Column, e.g. of sections, in whose groups the genes are scaled, each group "
        "by its own samples (mean_z); handed on as --keep does.",
    )
    catalogs: CatalogFolders = ()

    @property
    def handed_on(self) -> tuple[str, ...]:
        """Columns that are no genes."""
        return tuple(dict.fromkeys((*self.keep, *([self.within] if self.within else []))))
