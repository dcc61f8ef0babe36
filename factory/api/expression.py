"""Scoring gene expression by pathways, for conditions of kind `vector`."""

from pathlib import Path
from typing import TYPE_CHECKING

from factory.api.shown import Figures
from factory.api.words import AnyPath

if TYPE_CHECKING:
    from factory.data.expression.settings import ExpressionSettings


def score_expression(table: AnyPath, out: AnyPath, settings: "ExpressionSettings") -> Figures:
    """Scores every sample of a table of counts or TPM by gene sets.

    Args:
        table: .csv, .tsv, .parquet or .h5ad.
        out: .parquet with the scores: a row a sample, a column a set.
        settings: sets, method, and what the table holds.

    Returns:
        What was done: steps in words, coverage of each set, licence of the sets.

    Raises:
        SourceError: a table or sets that cannot be read, or too little of a set.
        InputError: settings that do not fit.
    """
    from factory.data.expression.score import score_expression as score

    return Figures(score(Path(table), Path(out), settings))
