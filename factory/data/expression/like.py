"""Scores that scale others (`--like`): read again, and compared with what they are to scale."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.hashing import compute_digest
from factory.core.parquet import read_schema
from factory.data.expression.gene_sets import GeneSets
from factory.data.expression.settings import MILLION, ExpressionSettings

METADATA = b"factory.expression"
"""Key of a scores file's metadata: how they were made, and what scales others like them."""


def describe_making(
    settings: ExpressionSettings, values: str, sets: GeneSets, genes: Sequence[str]
) -> dict[str, Any]:
    """Returns what scores of other samples must share, to be scaled as these.

    Args:
        settings: of scoring.
        values: what the table held: counts, tpm or log.
        sets: that are scored.
        genes: that a sample is ranked over.
    """
    members = {name: sorted(each) for name, each in sets.sets.items()}
    return {
        "method": settings.method,
        "sets": sets.name,
        "values": values,
        "target_sum": settings.target_sum,
        "within": settings.within,
        "sets_sha256": compute_digest("gene sets", members),
        "genes_sha256": compute_digest("genes", sorted(set(genes))),
    }


def read_like(path: Path, made: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns what scaled other scores, and in words how their table differed.

    Args:
        path: of the scores.
        made: `describe_making` of those that are to be scaled so.

    Raises:
        SourceError: no scores of ours.
        InputError: made by another method, of other sets, or of other values.
    """
    try:
        found = json.loads((read_schema(path).metadata or {})[METADATA])
    except (StoreError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: no scores that factory expression score wrote") from error
    if found.get("within") is not None:
        raise InputError(
            f"--like {path}: each {found['within']} of it was scaled by itself, which scales no "
            f"other: score both --within {found['within']}"
        )
    found.setdefault("target_sum", MILLION)  # scores of earlier versions do not say it
    for name in ("method", "sets", "values", "target_sum"):
        if name in found and found[name] != made[name]:
            do = ": give both in one unit" if name in ("values", "target_sum") else ""
            raise InputError(
                f"--like {path}: was made with {name} {found[name]}, not {made[name]}{do}"
            )
    scaling: dict[str, Any] = found["scaling"]
    if "sets_sha256" not in found:
        return scaling, [f"{path.name} does not say what its table held: it is not compared"]
    if found["sets_sha256"] != made["sets_sha256"]:
        raise InputError(f"--like {path}: {made['sets']} held other genes then: score both anew")
    if found["genes_sha256"] == made["genes_sha256"]:
        return scaling, []
    return scaling, [f"the table of {path.name} has other genes: scores compare less well"]


def count_unknown(scaling: Mapping[str, Any], genes: Sequence[str], path: Path) -> list[str]:
    """Returns in words how many genes have no mean there, so that they count as 0."""
    unknown = sum(gene not in scaling["mean"] for gene in genes)
    return [f"{unknown:,} genes of the sets are not in {path.name}: they count as 0"] * bool(
        unknown
    )
