"""Tables of gene expression: CSV, TSV, parquet and h5ad to samples by genes, with what was told."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.parquet import read_parquet
from factory.core.yaml.messages import advise
from factory.data.expression.settings import MILLION, ExpressionSettings

LEAST_OF_GROUP = 3
_LOG_MOST = 30.0
"""No log1p of a million goes beyond 14, none in base 2 beyond 20; counts soon do."""


@dataclass(frozen=True)
class Profiles:
    """Expression of samples.

    Attributes:
        samples: (S,) names, each once.
        genes: (G,) symbols in capitals; each once, but logarithms of genes that no set has.
        values: (S, G) float64.
        kept: (S,) columns that are handed on.
        told: what was done on the way, a sentence each.
    """

    samples: tuple[str, ...]
    genes: tuple[str, ...]
    values: NDArray[np.float64]
    kept: dict[str, list[Any]]
    told: tuple[str, ...] = ()


def read_profiles(path: Path, settings: ExpressionSettings, known: frozenset[str]) -> Profiles:
    """Reads a table, with genes in columns or in rows.

    Args:
        path: .csv, .tsv (also .gz), .parquet or .h5ad.
        settings: where genes stand, and which columns are handed on.
        known: symbols in capitals, by which it is guessed where genes stand.

    Raises:
        SourceError: unreadable; a value that is no number; a sample twice; no gene that is known.
    """
    frame, kept = _read_frame(path, settings)
    across = sum(str(name).upper() in known for name in frame.columns)
    down = sum(str(name).upper() in known for name in frame.index)
    told = []
    where = settings.genes
    if where == "auto":
        where = "rows" if down > across else "columns"
        told.append(f"genes stand in {where}: {max(across, down):,} of them are of the sets")
    if where == "rows" and kept:
        told.append(f"{', '.join(kept)}: of genes, not of samples: left out")
        kept = {}
    found = across if where == "columns" else down
    if not found:
        named = [str(name) for name in (*frame.columns[:2], *frame.index[:2])]
        is_ensembl = any(name.startswith("ENS") for name in named)
        hint = " (Ensembl ids? give gene symbols)" if is_ensembl else ""
        raise SourceError(
            f"{path}: no gene of the sets is there: its columns and rows are {', '.join(named)}, …"
            f"{hint}"
        )
    if where == "rows":
        _refuse_text(frame, path)
        frame = frame.T
    values = _to_numbers(frame, path, "row" if where == "rows" else "column")
    samples = tuple(map(str, frame.index))
    if "" in samples:
        raise SourceError(f"{path}: sample {samples.index('') + 1} has no name: give it one")
    again = [name for name, count in Counter(samples).items() if count > 1]
    if again:
        raise SourceError(f"{path}: sample {again[0]!r} stands twice: name each once")
    names = [str(name) for name in frame.columns]
    genes = tuple(name.strip().upper() for name in names)
    changed = sum(one != other for one, other in zip(genes, names, strict=True))
    if changed:
        told.append(f"{changed:,} symbols are compared in capitals")
    return Profiles(samples, genes, values, kept, tuple(told))


def normalise(
    profiles: Profiles, settings: ExpressionSettings, known: frozenset[str], path: Path
) -> tuple[Profiles, str]:
    """Returns log1p of scaled values, each gene once, and what the values were taken for.

    Args:
        profiles: as read.
        settings: `values` (`log` is left as it is), and what others of a sample add up to.
        known: symbols of the sets.
        path: of the table, for messages.

    Raises:
        SourceError: a negative count, a sample without any, or logarithms of a known gene twice.
        InputError: another sum for logarithms.
    """
    values, genes, kind = profiles.values, profiles.genes, str(settings.values)
    totals = values.sum(axis=1)
    if kind == "auto":
        is_million = bool(np.all(np.abs(totals - MILLION) < 0.02 * MILLION))
        is_whole = bool(np.all(values == np.rint(values)))
        is_log = bool((values < 0).any()) or (not is_whole and values.max() < _LOG_MOST)
        kind = "log" if is_log else "tpm" if is_million else "counts"
        told = f"taken for {kind}"
    else:
        told = f"given as {kind}"
    if kind == "log":
        if settings.target_sum != MILLION:
            raise InputError(
                f"{path}: --target-sum {settings.target_sum:g}: its values are {told} and stay as "
                "they are: leave it out, or say what they are by --values"
            )
        _refuse_repeats(genes, known, path)
        steps = (*profiles.told, f"{told}: left as they are")
        return replace(profiles, told=steps), kind
    if (values < 0).any():
        raise SourceError(f"{path}: negative {kind}: give values: log if they are logarithms")
    empty = [name for name, total in zip(profiles.samples, totals, strict=True) if total <= 0]
    if empty:
        raise SourceError(f"{path}: sample {empty[0]!r} has no {kind} at all: remove it")
    genes, values, more = _join_genes(genes, values)
    share = settings.target_sum / MILLION
    scaled = values / totals[:, None] * settings.target_sum if kind == "counts" else values * share
    what = "counts per million" if kind == "counts" else "TPM"
    if share != 1:
        what = f"{kind if kind == 'counts' else 'TPM'} per {settings.target_sum:,.6g}"
    steps = (*profiles.told, *more, f"{told}: log1p of {what}, of all genes")
    return Profiles(profiles.samples, genes, np.log1p(scaled), profiles.kept, steps), kind


def list_groups(profiles: Profiles, column: str) -> dict[str, list[int]]:
    """Returns group -> its samples' places, in the order of the table.

    Raises:
        SourceError: no such column of samples, one without a group, or a group of too few.
    """
    if column not in profiles.kept:
        raise SourceError(f"--within {column}: genes in rows have no columns of samples")
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(profiles.kept[column]):
        if name is None:
            raise SourceError(f"--within {column}: sample {profiles.samples[place]!r} has none")
        groups.setdefault(str(name), []).append(place)
    few = [name for name, rows in groups.items() if len(rows) < LEAST_OF_GROUP]
    if few:
        raise SourceError(
            f"--within {column}: {few[0]} has {len(groups[few[0]])} samples, which give no "
            f"deviations: remove them, or take a column of groups of {LEAST_OF_GROUP} or more"
        )
    return groups


def _read_frame(path: Path, settings: ExpressionSettings) -> tuple[Any, dict[str, list[Any]]]:
    """Returns a frame whose index names its rows, and the columns to hand on."""
    import pandas as pd

    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".h5ad"):
            return _read_h5ad(path, settings)
        if name.endswith(".parquet"):
            frame = read_parquet(path).to_pandas(integer_object_nulls=True)
        elif name.endswith((".csv", ".tsv", ".txt")):
            frame = _read_text(path, "," if name.endswith(".csv") else "\t", settings)
        else:
            raise SourceError(f"{path}: no table: give .csv, .tsv, .parquet or .h5ad")
    except (StoreError, OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as a table ({error})") from error
    if not len(frame) or len(frame.columns) < 2:
        raise SourceError(f"{path}: holds no samples and genes")
    if settings.id_column is not None or isinstance(frame.index, pd.RangeIndex):
        named = settings.id_column or frame.columns[0]
        _require([named], frame.columns, path)
        frame = frame.set_index(named)
    frame.index = frame.index.map(lambda name: "" if pd.isna(name) else name)
    kept = _hand_on(frame, settings, path)
    return frame.drop(columns=list(settings.handed_on)), kept


def _read_text(path: Path, delimiter: str, settings: ExpressionSettings) -> Any:
    """Returns a frame whose names and columns to hand on are text as it stands: 007, NA."""
    import pandas as pd

    named: tuple[Any, ...] = (settings.id_column or 0, *settings.handed_on)
    text = dict.fromkeys(named, str)
    how: dict[str, Any] = {"sep": delimiter, "keep_default_na": False}
    frame = pd.read_csv(path, converters=text, na_values=[""], **how)
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, **how).iloc[0].tolist()
    if len(header) == len(frame.columns):
        frame.columns = header  # pandas numbers names that repeat
    return frame


def _hand_on(frame: Any, settings: ExpressionSettings, path: Path) -> dict[str, list[Any]]:
    """Returns the columns to hand on, None where a cell is empty."""
    import pandas as pd

    _require(settings.handed_on, frame.columns, path)
    return {
        column: [None if pd.isna(value) or value == "" else value for value in frame[column]]
        for column in settings.handed_on
    }


def _read_h5ad(path: Path, settings: ExpressionSettings) -> tuple[Any, dict[str, list[Any]]]:
    import pandas as pd

    try:
        import anndata  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(
            f"{path}: needs the package anndata: pip install 'factory-pathology[expression]'"
        ) from error
    data = anndata.read_h5ad(path)
    matrix = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    kept = _hand_on(data.obs, settings, path)
    return pd.DataFrame(matrix, index=data.obs_names, columns=data.var_names), kept


def _require(names: Sequence[str], columns: Any, path: Path) -> None:
    for name in names:
        if list(columns).count(name) > 1:
            raise SourceError(f"{path}: column {name!r} stands twice: rename or remove one")
        if name not in columns:
            raise SourceError(f"{path}: no column {name!r}: {advise(name, [*map(str, columns)])}")


def _to_numbers(frame: Any, path: Path, what: str) -> NDArray[np.float64]:
    """Returns (S, G) numbers; a row or column of text (`what`) is named with what to do."""
    try:
        values = frame.to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        text = next((str(c) for c in frame.columns if not _is_numeric(frame[c])), "?")
        do = "name it in --keep, or correct it" if what == "column" else "correct or remove it"
        raise SourceError(f"{path}: {what} {text!r} holds no numbers: {do}") from error
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise SourceError(
            f"{path}: {len(bad):,} values are missing or not finite, the first of sample "
            f"{frame.index[row]!r}, gene {frame.columns[column]!r}: fill or drop them"
        )
    return np.asarray(values)


def _is_numeric(column: Any) -> bool:
    try:
        column.to_numpy(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_text(frame: Any, path: Path) -> None:
    """Raises SourceError for a column without any number, where columns are samples."""
    import pandas as pd

    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        if not _is_numeric(column) and pd.to_numeric(column, "coerce").isna().all():
            raise SourceError(
                f"{path}: column {name!r} holds no numbers: name it in --keep, which leaves out "
                "what stands beside genes"
            )


def _refuse_repeats(genes: Sequence[str], known: frozenset[str], path: Path) -> None:
    again = [gene for gene, count in Counter(genes).items() if count > 1 and gene in known]
    if again:
        raise SourceError(
            f"{path}: {len(again):,} genes of the sets stand several times, the first {again[0]!r}:"
            " logarithms cannot be added up: join them before, or give counts or TPM"
        )


def _join_genes(
    names: Sequence[str], values: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.float64], list[str]]:
    """Returns genes each once: columns of one symbol are added up."""
    genes = tuple(dict.fromkeys(names))
    if len(genes) == len(names):
        return genes, values, []
    place = {gene: number for number, gene in enumerate(genes)}
    joined = np.zeros((len(values), len(genes)))
    np.add.at(joined.T, [place[gene] for gene in names], values.T)
    more = len(names) - len(genes)
    return genes, joined, [f"{more:,} columns repeat a symbol: they were added up"]
