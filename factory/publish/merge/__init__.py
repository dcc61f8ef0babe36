"""Merging: real and synthetic sets as one Hugging Face data set with leak-free splits."""

import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.fields import Images, Option, Options, Seed
from factory.core.files.disk_map import DiskMap
from factory.core.files.new_folder import build_folder
from factory.core.files.spool import Spool
from factory.core.files.store import FileStore
from factory.core.notes import tell
from factory.core.plain import write_json
from factory.data.channels import COLUMN as CHANNELS
from factory.data.features import with_features
from factory.data.images import iterate_rows
from factory.data.images.image import Wanted
from factory.data.images.table import list_fields
from factory.data.schema import CONTENT_COLUMNS
from factory.data.writers.parquet import ParquetFiles
from factory.engine.dataset import Dataset
from factory.publish.merge.card import build_card, describe_splits
from factory.publish.merge.members import (
    COLUMNS,
    Member,
    find_conflicts,
    name_sources,
    read_real,
    read_synthetic,
    refuse_forgotten,
    unite_classes,
)
from factory.publish.merge.splits import LEFT_OUT, TEST, TRAIN, VALIDATION, Placement, place_members
from factory.recipe.conditions import list_kept

__all__ = ["MergeSettings", "describe_splits", "merge_sets"]

_OWN = {
    "label": pa.int64(),
    "is_synthetic": pa.bool_(),
    "source": pa.string(),
    "group_sha256": pa.string(),
    "provenance": pa.string(),
}
_NAMES = "image label class_name caption is_synthetic source group_sha256 image_sha256 sample_id"
_NAMES += " model reference_sha256 provenance"
SCHEMA = pa.schema([(name, {**dict(CONTENT_COLUMNS), **_OWN}[name]) for name in _NAMES.split()])
"""Columns of a run's rows, with those types, and a few of its own."""
_BLOCK = 64


class MergeSettings(Options):
    """How sets are merged."""

    validation: float = Field(0.1, ge=0, lt=1, description="Share of the real images, 0 for none.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of the real images.")
    test_set: Images | None = Field(
        None,
        description="Real images that are the test split as they are, instead of --test.",
    )
    seed: Seed = Field(0, description="Of the splits.")
    test_synthetic: Annotated[bool, Option("--synthetic-in-test")] = Field(
        False,
        description="Keep images that vary a patient of the test split there, instead of leaving "
        "them out.",
    )
    rename: Annotated[Mapping[str, str], Option(is_hidden=True)] = Field(
        {}, description="Class name -> class name."
    )
    columns: Annotated[Mapping[str, Any], Option(is_hidden=True)] = Field(
        {},
        description="image_column, label_column, caption_column, group_column, group_pattern of "
        "the real sets.",
    )
    rows_per_file: Annotated[int, Option(is_hidden=True)] = Field(
        10_000, ge=1, description="Rows of a parquet file."
    )


def merge_sets(
    real: Path, synthetic: Sequence[Path], out: Path, settings: MergeSettings
) -> dict[str, Any]:
    """Joins one real and several synthetic sets into a new data set folder.

    Image bytes are copied as they are stored. Equal inputs and settings give equal files. What is
    known of each image lies in temporary files (TMPDIR); memory holds 8 bytes an image, and the
    names of image files.

    Returns:
        What `merge.json` holds: counts by split, class and kind, units, what was left out.

    Raises:
        InputError: shares that do not fit, classes that differ in spelling alone, too few patients,
            or `out` is not empty.
        SourceError: images that cannot be read.
    """
    shares = _share_out(settings)
    with build_folder(out) as build:
        test_set, rename = settings.test_set, settings.rename
        wanted = Wanted.of(settings.columns)
        roots = [real, *([] if test_set is None else [test_set]), *synthetic]
        names = name_sources(roots)
        members = Spool(Member.pack, Member.unpack)
        members.extend(read_real(real, names[real], rename, wanted))
        if test_set is not None:
            members.extend(read_real(test_set, names[test_set], rename, wanted, is_test=True))
        for root in synthetic:
            members.extend(read_synthetic(root, names[root], rename))
        refuse_forgotten(members, synthetic)
        class_names = unite_classes(members)
        placement = place_members(members, shares, settings.seed, settings.test_synthetic)
        if test_set is not None:
            _tell_moved(members, placement)
        summary = _count(members, placement, class_names, settings)
        summary["sources"] = _describe_sources(members, names)
        summary["sha256"] = _write(members, placement, class_names, build, settings.rows_per_file)
        (build / "merge.json").write_text(write_json(summary), encoding="utf-8")
        (build / "README.md").write_text(build_card(out.name, summary), encoding="utf-8")
    return summary


def _share_out(settings: MergeSettings) -> dict[str, float]:
    """Returns split -> share.

    Raises:
        InputError: shares that leave nothing for train, or two ways to choose the test split.
    """
    test = 0.0 if settings.test_set is not None else settings.test
    train = 1.0 - settings.validation - test
    if train <= 0:
        raise InputError(
            f"--validation {settings.validation:g} and --test {test:g} leave nothing for train: "
            "they must add up to less than 1"
        )
    return {TRAIN: train, VALIDATION: settings.validation, TEST: test}


def _count(
    members: Iterable[Member],
    placement: Placement,
    class_names: Sequence[str],
    settings: MergeSettings,
) -> dict[str, Any]:
    counts: dict[str, dict[str, Counter[str]]] = {}
    groups: DiskMap[int] = DiskMap()
    unclassed = 0
    for split in (TRAIN, VALIDATION, TEST):
        if split in placement.splits:
            counts[split] = {"real": Counter(), "synthetic": Counter()}
    for member, split in zip(members, placement.splits, strict=True):
        unclassed += member.class_name is None
        if member.group_sha256 and not member.is_synthetic:
            groups[member.group_sha256] = 1
        if split != LEFT_OUT:
            kind = "synthetic" if member.is_synthetic else "real"
            counts[split][kind][member.class_name or "no class"] += 1
    return {
        "seed": settings.seed,
        "validation": settings.validation,
        "test": settings.test if settings.test_set is None else None,
        "test_synthetic": settings.test_synthetic,
        "class_names": list(class_names),
        "unclassed": unclassed,
        "splits": counts,
        "units": {split: placement.units[split] for split in counts if placement.units[split]},
        "groups": len(groups),
        "left_out": dict(placement.left_out),
        "unplaced": placement.unplaced,
        "conflicts": _describe_conflicts(members),
    }


def _tell_moved(members: Iterable[Member], placement: Placement) -> None:
    """Says which images of the training set are in test, as the given test set has them too."""
    given: DiskMap[int] = DiskMap()
    for member in members:
        if member.is_test:
            given[member.pixels_sha256] = 1
    moved = same = 0
    source, such = "", ""
    for member, split in zip(members, placement.splits, strict=True):
        if split == TEST and not member.is_test and not member.is_synthetic:
            moved += 1
            source = source or member.source
            if member.pixels_sha256 in given:
                same += 1
                such = such or member.image.place
    if moved:
        such = f", {same:,} of them the same image ({such})" if same else ""
        tell(
            f"{moved:,} images of {source} show images or patients of the test set{such}: they are "
            "in test"
        )


def _describe_conflicts(members: Iterable[Member]) -> dict[str, int]:
    """Returns classes -> images that stand under all of them; the first is told by name."""
    found, alike = find_conflicts(members)
    if found:
        places = " = ".join(f"{each.image.place} ({each.class_name})" for each in alike)
        tell(
            f"{found.total():,} images stand under several classes, such as {places}: all are "
            "kept, in one split; correct their classes"
        )
    return dict(sorted(found.items()))


def _describe_sources(members: Iterable[Member], names: Mapping[Path, str]) -> list[dict[str, Any]]:
    counts = Counter((member.source, member.is_synthetic) for member in members)
    roots = {name: root for root, name in names.items()}
    sources = []
    for (name, is_synthetic), images in counts.items():
        licences: list[str] = []
        if is_synthetic:
            summary = Dataset(str(roots[name])).summary
            for maker in summary.makers if summary else ():
                licence = maker.licence or {"id": "unknown"}
                licences.append(f"model {maker.model}: {licence['id']}")
        sources.append(
            {"name": name, "is_synthetic": is_synthetic, "images": images, "licences": licences}
        )
    return sources


def _write(
    members: Iterable[Member],
    placement: Placement,
    class_names: Sequence[str],
    build: Path,
    per_file: int,
) -> dict[str, str]:
    """Writes the rows of each split; returns file name -> sha256."""
    kept = _list_kept(members)
    fields = [*SCHEMA, *(pa.field(*column) for column in kept.items())]
    schema = with_features(pa.schema(fields), tuple(class_names))
    files, hashes = FileStore(str(build)), {}
    for split in (TRAIN, VALIDATION, TEST):
        count = placement.splits.count(split)
        if not count:
            continue
        mine = (
            each for each, place in zip(members, placement.splits, strict=True) if place == split
        )
        rows = _build_rows(mine, class_names, tuple(kept))
        with ParquetFiles(files, "data", split, schema, count, per_file) as writer:
            while block := list(itertools.islice(rows, _BLOCK)):
                writer.write(pa.Table.from_pylist(block, schema=schema))
        if writer.rows != count:
            raise StoreError(f"{build}: {writer.rows} rows written, not {count}")
        hashes.update(writer.hashes)
    return hashes


def _list_kept(members: Iterable[Member]) -> dict[str, pa.DataType]:
    """Returns the columns of streams, such as masks, that rows of the synthetic sets have."""
    has = {name for path in _list_files(members) for name in list_fields(path)}
    if CHANNELS in has:
        tell("the channels beside RGB are left out: a merged set holds their RGB composites")
    return list_kept(sorted(has - {*SCHEMA.names}))


def _list_files(members: Iterable[Member]) -> list[Path]:
    """Returns the files that hold rows of the synthetic sets."""
    mine = (each.image for each in members if each.is_synthetic and each.image.row is not None)
    return list(dict.fromkeys(image.path for image in mine))


def _build_rows(
    members: Iterable[Member], class_names: Sequence[str], kept: Sequence[str]
) -> Iterator[dict[str, Any]]:
    labels = {name: label for label, name in enumerate(class_names)}
    members, again = itertools.tee(members)
    rows = iterate_rows((member.image for member in again), (*COLUMNS, *kept))
    for member, row in zip(members, rows, strict=True):
        image = member.image
        data = image.read_bytes()
        name = f"{member.image_sha256[:32]}.{_find_suffix(data, image.place)}"
        yield {
            **(row if member.is_synthetic else {}),
            "image": {"bytes": data, "path": name},
            "label": labels.get(member.class_name or ""),
            "class_name": member.class_name,
            "caption": image.caption,
            "is_synthetic": member.is_synthetic,
            "source": member.source,
            "group_sha256": next(iter(member.groups), None)
            if member.is_synthetic
            else member.group_sha256,
            "image_sha256": member.image_sha256,
        }


def _find_suffix(data: bytes, place: str) -> str:
    """Returns the suffix of an image's own format; file names may tell patients.

    Raises:
        SourceError: bytes that are no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            kind = str(opened.format).lower()
    except (UnidentifiedImageError, OSError) as error:
        raise SourceError(f"{place}: not a readable image: replace or remove it") from error
    return {"jpeg": "jpg", "tiff": "tif"}.get(kind, kind)
