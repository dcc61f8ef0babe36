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
from factory.core.errors import InputError, SourceError
from factory.core.files.atomic import write_file
from factory.data.expression.gene_sets import HOUSEKEEPING, MITOCHONDRIAL, GeneSets, find_gene_sets
from factory.data.expression.like import METADATA, count_unknown, describe_making, read_like
from factory.data.expression.scoring import (
    STILL,
    mark_members,
    score_mean_z,
    score_ssgsea,
    score_within,
)
from factory.data.expression.settings import ExpressionSettings
from factory.data.expression.table import Profiles, list_groups, normalise, read_profiles

_NO_GROUPS = (
    "--within scales each group by its own samples, for --method mean_z: leave out --like and "
    "other methods, or leave out --within"
)
_NO_RANGE = "{}, so that nothing scales them: give more samples, or scores by --like"
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
        SourceError: a table or sets that cannot be read, too little of a set where refused, a set
            of all genes (ssgsea), or scores that do not vary.
        InputError: `like` was made by another method, of other sets or values, or `out` is no
            .parquet.
    """
    if out.suffix != ".parquet":
        raise InputError(f"{out}: scores are written as .parquet: name it so")
    sets = find_gene_sets(settings.sets, load_catalogs(settings.catalogs))
    read = read_profiles(table, settings, sets.genes)
    profiles, values = normalise(read, settings, sets.genes, table)
    steps = [*profiles.told]
    dropped = frozenset() if settings.keep_all else _list_dropped(profiles.genes)
    if dropped:
        steps.append(f"{len(dropped)} mitochondrial and housekeeping genes are dropped")
    profiles = _leave_out(profiles, dropped)
    coverage = _measure_coverage(profiles, sets, dropped, settings)
    made = describe_making(settings, values, sets, profiles.genes)
    scores, scaling, more = _score(profiles, sets, coverage, settings, made)
    result = {
        "factory_version": __version__,
        "table": table.name,
        **made,
        "licence": sets.licence,
        "samples": len(profiles.samples),
        "genes": len(profiles.genes),
        "steps": [*steps, *more],
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
    made: dict[str, Any],
) -> tuple[NDArray[np.float64], dict[str, Any], list[str]]:
    """Returns (S, P) scores, NaN where too little of a set is there, what scaled them, and words.

    Raises:
        SourceError: nothing to scale by: scores or genes that do not vary.
        InputError: as `read_like`; groups where they do not count.
    """
    if settings.within is not None and (settings.method != "mean_z" or settings.like is not None):
        raise InputError(_NO_GROUPS)
    like, told = (None, []) if settings.like is None else read_like(settings.like, made)
    scored = [name for name, each in coverage.items() if not each.is_low]
    scores = np.full((len(profiles.samples), len(coverage)), np.nan)
    columns = [list(coverage).index(name) for name in scored]
    members = mark_members(profiles.genes, [sets.sets[name] for name in scored])
    if settings.method == "ssgsea":
        whole = [
            name for name, has in zip(scored, np.asarray(members.all(axis=0)), strict=True) if has
        ]
        if whole:
            raise SourceError(
                f"set {whole[0]!r} holds every gene of the table, so that ssgsea has none to rank "
                "it against: leave it out, give all genes, or take --method mean_z"
            )
        found = score_ssgsea(profiles.values, members)
        low, high = like["range"] if like else (float(found.min()), float(found.max()))
        if not high > low:
            raise SourceError(_NO_RANGE.format("scores do not differ"))
        scores[:, columns] = found / (high - low)
        return scores, {"range": [low, high]}, told
    used = np.asarray(members.any(axis=1))
    genes = [gene for gene, is_used in zip(profiles.genes, used, strict=True) if is_used]
    values = profiles.values[:, used]
    if settings.within is not None:
        groups = list_groups(profiles, settings.within)
        scores[:, columns] = score_within(values, members[used], list(groups.values()))
        sizes = {name: len(rows) for name, rows in groups.items()}
        named = ", ".join(f"{name} of {size:,}" for name, size in sizes.items())
        words = f"genes are scaled within each {settings.within}, by its own samples: {named}"
        return scores, {"groups": sizes}, [*told, words]
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    if like is not None and settings.like is not None:
        told = [*told, *count_unknown(like, genes, settings.like)]
        mean = np.array([like["mean"].get(gene, 0.0) for gene in genes])
        deviation = np.array([like["deviation"].get(gene, 0.0) for gene in genes])
    if not (deviation > STILL).any():
        raise SourceError(_NO_RANGE.format("no gene of the sets varies"))
    scores[:, columns] = score_mean_z(values, members[used], mean, deviation)
    pairs = {"mean": mean, "deviation": deviation}
    scaling = {
        name: dict(zip(genes, each.round(9).tolist(), strict=True)) for name, each in pairs.items()
    }
    return scores, scaling, told


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
