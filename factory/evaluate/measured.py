"""Which images an evaluation measured, and whether they are those that are there now.

The digest of rows with sample ids, which hang on all that shapes an image, is that of the ids in
their order: a run and its published copy have the same, and it changes with `refilter` or
`--extend` where, and only where, other images are accepted. Files of other tools are known by
name, size, first and last block.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.hashing import compute_digest
from factory.core.parquet import ParquetTable, open_parquet
from factory.engine.dataset import Dataset

DATA = "data"
"""Key of a result: a list of `name`, `digest` and `rows` of each set that it measured."""
BLOCK = 1 << 16

Open = Callable[[], AbstractContextManager[ParquetTable]]


@dataclass(frozen=True, slots=True)
class Present:
    """The images that a run folder holds now."""

    digest: str
    rows: int


def describe_data(root: Path, files: Iterable[Path], rows: int) -> dict[str, Any]:
    """Returns what a result says of a set that it measured: no place of a disk.

    Args:
        root: folder or file of the set.
        files: all files that its images lie in.
        rows: its images.
    """
    paths = sorted(set(files))
    found = None
    if all(path.suffix == ".parquet" for path in paths):
        found = digest_rows(partial(open_parquet, path) for path in paths)
    digest = _digest_files(root, paths) if found is None else found.digest
    return {"name": root.absolute().name, "digest": digest, "rows": rows}


def read_present(dataset: Dataset) -> Present:
    """Reads which images a finished data set holds.

    Raises:
        StoreError: its data cannot be read.
    """
    opened = (partial(dataset.files.open_parquet, name) for name in dataset.list_tables(DATA))
    return digest_rows(opened) or Present("", 0)


def digest_rows(files: Iterable[Open]) -> Present | None:
    """Returns the digest of the sample ids of parquet files in order; None where one is missing."""
    digest, rows = hashlib.sha256(), 0
    for open_file in files:
        with open_file() as table:
            if "sample_id" not in table.schema.names:
                return None
            for batch in table.iterate_batches(BLOCK, ["sample_id"]):
                if batch.column(0).null_count:
                    return None
                names = batch.column(0).to_pylist()
                digest.update("".join(f"{name}\n" for name in names).encode())
                rows += len(names)
    return Present(digest.hexdigest(), rows)


def explain_other(result: Mapping[str, Any], present: Present) -> str:
    """Says why a result does not speak of the images that are there; empty where it does."""
    sets = [each for each in _list_sets(result) if each.get("digest")]
    if any(each["digest"] == present.digest for each in sets):
        return ""
    if not sets:
        return "does not say which images it measured"
    told = " and ".join(f"{each.get('rows')} images of {each.get('name')}" for each in sets[:3])
    more = f" and {len(sets) - 3} more sets" if len(sets) > 3 else ""
    return f"measured on {told}{more}, which are not the {present.rows} images that are here now"


def join_data(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the sets of several results, each once."""
    found = {json.dumps(each, sort_keys=True): each for one in results for each in _list_sets(one)}
    return list(found.values())


def _list_sets(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = result.get(DATA)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _digest_files(root: Path, paths: Sequence[Path]) -> str:
    base = root if root.is_dir() else root.parent
    return compute_digest("files", [[os.path.relpath(p, base), *_sample(p)] for p in paths])


def _sample(path: Path) -> tuple[int, str]:
    """Returns the size of a file, and the sha256 of its first and last block."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for start in (0, max(BLOCK, size - BLOCK)):
            stream.seek(start)
            digest.update(stream.read(BLOCK))
    return size, digest.hexdigest()
