"""Gene sets: of a catalog, of a .gmt file, or of a .csv whose columns are sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.core.errors import SourceError
from factory.core.text_rows import read_lines, read_rows
from factory.core.yaml.messages import advise

MITOCHONDRIAL = "MT-"
"""Beginning of the HGNC symbols of genes of the mitochondrial genome."""
HOUSEKEEPING = frozenset(
    (
        # Eisenberg & Levanon 2013, Trends in Genetics 29:569: the eleven that they propose.
        "C1ORF43",
        "CHMP2A",
        "EMC7",
        "GPI",
        "PSMB2",
        "PSMB4",
        "RAB7A",
        "REEP5",
        "SNRPD3",
        "VCP",
        "VPS29",
        # Vandesompele et al. 2002, Genome Biology 3:research0034: the ten that they measured.
        "ACTB",
        "B2M",
        "GAPDH",
        "HMBS",
        "HPRT1",
        "RPL13A",
        "SDHA",
        "TBP",
        "UBC",
        "YWHAZ",
    )
)
"""Reference genes, which say how much RNA there is rather than what a cell does."""


@dataclass(frozen=True, slots=True)
class GeneSets:
    """Named sets of gene symbols, each symbol once, in capitals.

    Attributes:
        name: catalog id, or the file's name.
        sets: name -> symbols.
        licence: plain `LicenceTerms`; None: a file of the user's own.
    """

    name: str
    sets: Mapping[str, tuple[str, ...]]
    licence: Mapping[str, Any] | None = None

    @property
    def genes(self) -> frozenset[str]:
        """All symbols."""
        return frozenset(gene for genes in self.sets.values() for gene in genes)


def find_gene_sets(name: str, catalogs: Catalogs, base: Path = Path()) -> GeneSets:
    """Returns gene sets by catalog id, or of a file.

    Raises:
        SourceError: neither, or a file that cannot be read as sets.
        RecipeError: a catalog file that is wrong.
    """
    if name in catalogs.list_ids("pathways"):
        entry = catalogs.find_pathways(name)
        read = read_gene_sets(Path(entry.source))
        return GeneSets(name, read.sets, entry.licence.model_dump(mode="json"))
    path = base / Path(name).expanduser()
    if not path.is_file():
        known = advise(name, catalogs.list_ids("pathways"))
        raise SourceError(f"gene sets {name!r}: no such file and no catalog id: {known}")
    return read_gene_sets(path)


def read_gene_sets(path: Path) -> GeneSets:
    """Reads a .gmt file (name, address, symbols; tabs), or a .csv or .tsv whose columns are sets.

    Raises:
        SourceError: unreadable, a set twice or without genes; names the line.
    """
    sets = _read_columns(path) if path.suffix.lower() in (".csv", ".tsv") else _read_gmt(path)
    if not sets:
        raise SourceError(f"{path}: holds no gene sets")
    for name, genes in sets.items():
        if not genes:
            raise SourceError(f"{path}: {name}: holds no genes: remove it")
    return GeneSets(path.name, sets)


def _read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        name, *rest = [part.strip() for part in line.split("\t")]
        if len(rest) < 2 or not name:
            raise SourceError(
                f"{path}:{number}: want a name, an address and genes with tabs between, as .gmt "
                f"has them, got {line[:60]!r}"
            )
        if name in found:
            raise SourceError(f"{path}:{number}: set {name!r} stands twice: rename or remove one")
        found[name] = _tidy(rest[1:])
    return found


def _read_columns(path: Path) -> dict[str, tuple[str, ...]]:
    columns: dict[str, list[str]] = {}
    for _, row in read_rows(path):
        for name, gene in row.items():
            columns.setdefault(name, []).append(gene)
    return {name: _tidy(genes) for name, genes in columns.items()}


def _tidy(genes: list[str]) -> tuple[str, ...]:
    kept = (gene.strip().upper() for gene in genes if gene.strip().lower() not in ("", "nan", "na"))
    return tuple(dict.fromkeys(kept))
