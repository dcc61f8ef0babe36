"""Checks of files, counts and schema against summary and card, and of the tars against the rows."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.errors import DamageError, SourceError
from factory.core.files.disk_map import DiskMap
from factory.core.hashing import hash_bytes
from factory.data.channel_tables import strip_extension
from factory.data.channels import COLUMN as CHANNELS
from factory.data.channels import decode_values, hash_values
from factory.data.features import build_final_schema
from factory.data.images import list_images
from factory.data.images.tar import read_members
from factory.engine.dataset import DATA, REJECTED, TARS, Dataset
from factory.publish.verify.findings import Report
from factory.recipe.recipe import compute_recipe_digest

_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")
NO_HASHES = (
    "hashes of files: no summary.json that names them; an edited score that crosses no threshold "
    "and keeps 4 decimals, and an edited reason, cannot be told"
)
NO_COUNTS = (
    "counts: neither summary.json nor num_examples in the header of README.md; a row that was "
    "dropped cannot be told"
)


def check_files(dataset: Dataset, report: Report) -> None:
    """Compares every file with the hash in the summary, and finds missing numbers of files."""
    hashes = dataset.summary.hashes if dataset.summary else {}
    present = [*dataset.list_tables(DATA), *dataset.list_tables(REJECTED), *dataset.list_tars()]
    if not hashes:
        report.note(NO_HASHES)
    folders = {name.partition("/")[0] for name in present}
    for name, recorded in hashes.items():
        folder, is_below, _ = name.partition("/")
        if dataset.files.exists(name):
            report.expect("files", name, dataset.files.hash(name), recorded, field="sha256")
        elif is_below and folder not in folders:
            report.note(f"{folder}/ is not in this copy")
        else:
            report.fail("files", name, "is missing")
    for name in present if hashes else ():
        if name not in hashes:
            report.fail("files", name, "is not one of the files of the data set")
    for folder in (DATA, REJECTED):
        _check_numbers(dataset, folder, report)


def _check_numbers(dataset: Dataset, folder: str, report: Report) -> None:
    names = [Path(name).name for name in dataset.list_tables(folder)]
    found = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    totals = {int(match.group(3)) for match in found}
    numbers = {int(match.group(2)) for match in found}
    for total in totals:
        for number in sorted(set(range(total)) - numbers):
            report.fail("files", f"{folder}/", f"file {number} of {total} is missing")


def check_schema(dataset: Dataset, name: str, report: Report) -> list[str]:
    """Compares a file's columns with those of a data set; returns the columns that are missing.

    Raises:
        StoreError: the file is damaged.
    """
    schema = dataset.read_schema(name)
    scores = schema.field("scores").type if "scores" in schema.names else pa.struct([])
    names = [scores.field(i).name for i in range(scores.num_fields)]
    streams = () if dataset.recipe is None else dataset.recipe.columns
    maker = None if dataset.summary is None else dataset.summary.maker
    final = build_final_schema((), names, streams, maker)
    columns: dict[str, Any] = {each.name: each.type for each in final}
    if name.startswith(f"{REJECTED}/"):
        columns |= dict.fromkeys(("rejected_by", "reason", "status"), pa.string())
    for column, kind in columns.items():
        found = schema.field(column).type if column in schema.names else None
        if found is None:
            report.fail("schema", name, "is missing", field=column)
        else:
            here, wanted = strip_extension(found), strip_extension(kind)
            here = wanted if here == wanted else here  # parquet names what lies in lists
            report.expect("schema", name, str(here), str(wanted), field=column)
    for column in sorted(set(schema.names) - set(columns)):
        report.fail("schema", name, "is not a column of a data set", field=column)
    return [column for column in columns if column not in schema.names]


def check_counts(
    dataset: Dataset, counts: Mapping[str, int], classes: Counter[str | None], report: Report
) -> None:
    """Compares counted rows with what the summary and the card say.

    Args:
        dataset: the data set.
        counts: rows found in `data` and in `rejected`.
        classes: accepted rows by class.
        report: where findings go.
    """
    summary = dataset.summary
    declared = list(_list_declared(dataset.card_header))
    if summary is None and not declared:
        report.note(NO_COUNTS)
    for folder, split, number in declared:
        if folder == DATA or dataset.list_tables(folder):
            field = f"dataset_info: {split}.num_examples"
            report.expect("counts", "README.md", number, counts[folder], field=field)
    if summary is None:
        return
    files = summary.files
    rejected = sum(part.generated - part.accepted for part in summary.series)
    expected: tuple[tuple[str, Any, str], ...] = (
        ("accepted", summary.accepted, DATA),
        ("series.accepted", sum(part.accepted for part in summary.series), DATA),
        ("files.rows", files and files.rows, DATA),
        ("files.rejected_rows", files and files.rejected_rows, REJECTED),
        ("series.generated - accepted", rejected, REJECTED),
    )
    for field, said_rows, folder in expected:
        if folder == DATA or dataset.list_tables(folder):
            report.expect("counts", "summary.json", said_rows, counts[folder], field=field)
    if all(len(part.class_names) <= 1 for part in summary.series):
        said: Counter[str | None] = Counter()
        for part in summary.series:
            said[next(iter(part.class_names), None)] += part.accepted
        for name in sorted({*said, *classes}, key=str):
            field = f"series.accepted of {name}"
            report.expect("counts", "summary.json", said[name], classes[name], field=field)
    if dataset.recipe is not None:
        digest, field = compute_recipe_digest(dataset.recipe), "recipe_sha256"
        report.expect("recipe", "summary.json", summary.recipe_sha256, digest, field=field)


def _list_declared(header: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yields (folder, split, rows) of the card's dataset_info."""
    info = header.get("dataset_info")
    for config in info if isinstance(info, list) else [info]:
        for split in (config or {}).get("splits") or ():
            folder = REJECTED if split.get("name") == REJECTED else DATA
            if split.get("num_examples") is not None:
                yield folder, str(split["name"]), int(split["num_examples"])


def check_tars(
    dataset: Dataset,
    image_hashes: DiskMap[str],
    channel_hashes: DiskMap[str],
    report: Report,
) -> None:
    """Compares the samples of the tars with the accepted rows: the same ids, bytes and channels."""
    names = dataset.list_tars()
    if not names:
        return
    if not dataset.files.is_local:
        report.note(f"{TARS}/: read where it is local only")
        return
    seen: DiskMap[int] = DiskMap()
    for name in names:
        try:
            images = list_images(Path(dataset.files.resolve(name)))
        except SourceError as error:
            report.fail("tars", name, str(error))
            continue
        if channel_hashes:
            _check_channels(name, Path(dataset.files.resolve(name)), channel_hashes, report)
        for image in images:
            key = image.key.rpartition("#")[2].partition(".")[0]
            known = image_hashes.get(key)
            if seen.count_up(key) == 2:
                report.fail("tars", name, "is there twice", key)
            if known is None:
                report.fail("tars", name, "is no accepted row", key)
                continue
            report.expect("tars", name, hash_bytes(image.read_bytes()), known, key, "image")
    for key in image_hashes.list_lacking(seen):
        report.fail("tars", f"{TARS}/", "is in no tar", key)


def _check_channels(name: str, path: Path, hashes: Mapping[str, str], report: Report) -> None:
    """Compares the channels of a tar, sample by sample, with those of the rows."""
    for key, values in read_members(path, f"{CHANNELS}.npy"):
        try:
            sha = None if values is None else hash_values(decode_values(values, key))
        except DamageError as error:
            report.fail("tars", name, str(error), key, CHANNELS)
            continue
        report.expect("tars", name, sha, hashes.get(key), key, CHANNELS)
