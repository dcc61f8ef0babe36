"""Scores a table of gene expression by gene sets, writes the scores, and tells what it did."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import __version__
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, SourceError, StoreError
from factory.core.files.atomic import write_file
from factory.core.parquet import read_schema
from factory.data.expression.gene_sets import (
    HOUSEKEEPING,
    MITOCHONDRIAL,
    GeneSets,
    find_gene_sets,
)
from factory.data.expression.scoring import mark_members, score_mean_z, score_ssgsea
from factory.data.expression.settings import ExpressionSettings
from factory.data.expression.table import Profiles, normalise, read_profiles

METADATA = b"factory.expression"
"""Key of a scores file's metadata: how they were made, and what scales others like them."""
ID = "sample"
"""Column of the samples' names."""


@dataclass(frozen=True)
class Coverage:
    """How much of a set a table has.

    Attributes:
        genes: in the set.
        covered: that are scored.
        dropped: mitochondrial or housekeeping genes.
        missing: that the table lacks.
        is_low: whether too few are covered.
    """

    genes: int
    covered: int
    dropped: tuple[str, ...]
    missing: tuple[str, ...]
    is_low: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return {
            "genes": self.genes,
            "covered": self.covered,
            "dropped": list(self.dropped),
            "missing": list(self.missing),
            "is_low": self.is_low,
        }


def score_expression(table: Path, out: Path, settings: ExpressionSettings) -> dict[str, Any]:
    """Scores every sample of a table, and writes `out`: a row a sample, a column a set.

    Args:
        table: .csv, .tsv, .parquet or .h5ad of counts, TPM or their logarithms.
        out: .parquet; what is there is replaced.
        settings: sets, method, what the table holds, and what is handed on.

    Returns:
        What was done: samples, genes, steps in words, coverage of each set, licence of the sets.

    Raises:
        SourceError: a table or sets that cannot be read, or too little of a set where refused.
        InputError: `like` was made by another method or other sets, or `out` is no .parquet.
    """
    if out.suffix != ".parquet":
        raise InputError(f"{out}: scores are written as .parquet: name it so")
    sets = find_gene_sets(settings.sets, load_catalogs(settings.catalogs))
    like = None if settings.like is None else _read_like(settings.like, settings, sets)
    profiles, told = normalise(read_profiles(table, settings, sets.genes), settings.values, table)
    steps = [*profiles.told, told]
    dropped = frozenset() if settings.keep_all else _list_dropped(profiles.genes)
    if dropped:
        steps.append(f"{len(dropped)} mitochondrial and housekeeping genes are dropped")
    profiles = _leave_out(profiles, dropped)
    coverage = _measure_coverage(profiles, sets, dropped, settings)
    scores, scaling = _score(profiles, sets, coverage, settings, like)
    result = {
        "factory_version": __version__,
        "table": table.name,
        "sets": sets.name,
        "licence": sets.licence,
        "method": settings.method,
        "samples": len(profiles.samples),
        "genes": len(profiles.genes),
        "steps": steps,
        "like": None if settings.like is None else settings.like.name,
        "coverage": {name: each.to_json() for name, each in coverage.items()},
        "scaling": scaling,
    }
    _write(out, profiles, tuple(sets.sets), scores, result)
    return result


def _list_dropped(genes: Sequence[str]) -> frozenset[str]:
    return frozenset(g for g in genes if g.startswith(MITOCHONDRIAL) or g in HOUSEKEEPING)


def _leave_out(profiles: Profiles, dropped: frozenset[str]) -> Profiles:
    stays = np.array([gene not in dropped for gene in profiles.genes])
    genes = tuple(gene for gene in profiles.genes if gene not in dropped)
    return Profiles(profiles.samples, genes, profiles.values[:, stays], profiles.kept)


def _measure_coverage(
    profiles: Profiles, sets: GeneSets, dropped: frozenset[str], settings: ExpressionSettings
) -> dict[str, Coverage]:
    """Returns set -> what is there of it.

    Raises:
        SourceError: too little of a set, where that is refused, or of all.
    """
    there, found = frozenset(profiles.genes), dict[str, Coverage]()
    for name, genes in sets.sets.items():
        covered = sum(gene in there for gene in genes)
        out = tuple(gene for gene in genes if gene in dropped)
        missing = tuple(gene for gene in genes if gene not in there and gene not in dropped)
        share = covered / len(genes)
        is_low = covered < settings.min_genes or share < settings.min_coverage
        found[name] = Coverage(len(genes), covered, out, missing, is_low)
    low = [name for name, each in found.items() if each.is_low]
    if low and (settings.on_low == "refuse" or len(low) == len(found)):
        first = found[low[0]]
        raise SourceError(
            f"{low[0]} and {len(low) - 1} other sets: {first.covered} of {first.genes} genes are "
            f"there, {settings.min_genes} and {settings.min_coverage:.0%} are asked for: take "
            "other sets, or lower --min-coverage or --min-genes"
        )
    return found


def _score(
    profiles: Profiles,
    sets: GeneSets,
    coverage: dict[str, Coverage],
    settings: ExpressionSettings,
    like: dict[str, Any] | None,
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Returns (S, P) scores, NaN where too little of a set is there, and what scaled them."""
    scored = [name for name, each in coverage.items() if not each.is_low]
    scores = np.full((len(profiles.samples), len(coverage)), np.nan)
    columns = [list(coverage).index(name) for name in scored]
    members = mark_members(profiles.genes, [sets.sets[name] for name in scored])
    if settings.method == "ssgsea":
        found = score_ssgsea(profiles.values, members)
        low, high = like["range"] if like else (float(found.min()), float(found.max()))
        scores[:, columns] = found / (high - low)
        return scores, {"range": [low, high]}
    used = np.asarray(members.any(axis=1))
    genes = [gene for gene, is_used in zip(profiles.genes, used, strict=True) if is_used]
    values = profiles.values[:, used]
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    if like is not None:
        mean = np.array([like["mean"].get(gene, 0.0) for gene in genes])
        deviation = np.array([like["deviation"].get(gene, 0.0) for gene in genes])
    scores[:, columns] = score_mean_z(values, members[used], mean, deviation)
    pairs = {"mean": mean, "deviation": deviation}
    return scores, {
        name: dict(zip(genes, each.round(9).tolist(), strict=True)) for name, each in pairs.items()
    }


def _read_like(path: Path, settings: ExpressionSettings, sets: GeneSets) -> dict[str, Any]:
    """Returns what scaled other scores.

    Raises:
        SourceError: no scores of ours.
        InputError: made by another method, or of other sets.
    """
    try:
        made = json.loads((read_schema(path).metadata or {})[METADATA])
    except (StoreError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: no scores that factory expression score wrote") from error
    for name, wanted in (("method", settings.method), ("sets", sets.name)):
        if made[name] != wanted:
            raise InputError(f"--like {path}: was made with {name} {made[name]}, not {wanted}")
    scaling: dict[str, Any] = made["scaling"]
    return scaling


def _write(
    out: Path,
    profiles: Profiles,
    names: Sequence[str],
    scores: NDArray[np.float64],
    result: dict[str, Any],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = {ID, *names} & profiles.kept.keys()
    if taken:
        raise InputError(f"--keep {sorted(taken)[0]}: is the name of a column of scores: rename it")
    columns = {ID: pa.array(profiles.samples), **{k: pa.array(v) for k, v in profiles.kept.items()}}
    columns |= {name: pa.array(scores[:, place]) for place, name in enumerate(names)}
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(result).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_file(out, buffer.getvalue())
