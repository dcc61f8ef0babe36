"""ImageFolders: one folder per class, and a metadata file with captions, groups or classes."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.errors import SourceError
from factory.sources.image import SourceImage, Wanted, match_group, read_text

METADATA = ("metadata.csv", "metadata.jsonl")
"""As in `datasets`: one row per image, named by `file_name` relative to the folder."""
CAPTIONS = ("caption", "text")


def list_folder(files: Sequence[Path], root: Path, wanted: Wanted) -> list[SourceImage]:
    """Lists image files; `metadata.csv` or `metadata.jsonl` in `root` adds what it knows.

    Raises:
        SourceError: a column asked for is missing, or the metadata names none of the images.
    """
    keys = [path.relative_to(root).as_posix() for path in files]
    table = _read_metadata(root, wanted)
    asked = any((wanted.group, wanted.label, wanted.caption))
    if asked and files and not any(key in table for key in keys):
        raise SourceError(f"{root}: file_name of its metadata names none of the images ({keys[0]})")
    has = {name for row in table.values() for name in row}
    caption = wanted.caption or next((name for name in CAPTIONS if name in has), None)
    found = []
    for key, path in zip(keys, files, strict=True):
        row = table.get(key, {})
        folder = path.parent.relative_to(root).as_posix()
        class_name: Any = None if folder == "." else folder
        if wanted.label is not None:
            class_name = row.get(wanted.label)
        group = row.get(wanted.group) if wanted.group else match_group(path.name, wanted.pattern)
        found.append(
            SourceImage(
                key,
                None if class_name in (None, "") else str(class_name),
                None if group is None else str(group),
                path,
                caption=read_text(row.get(caption), f"{root}/{key}", caption) if caption else None,
            )
        )
    return found


def _read_metadata(root: Path, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """Returns file name -> row; empty where nothing is asked for and nothing is declared."""
    columns = {
        name: column
        for name, column in (
            ("group_column", wanted.group),
            ("label_column", wanted.label),
            ("caption_column", wanted.caption),
        )
        if column is not None
    }
    path = next((root / name for name in METADATA if (root / name).is_file()), None)
    if path is None:
        if columns:
            name, column = next(iter(columns.items()))
            names = " or ".join(METADATA)
            raise SourceError(f"{root}: {name} {column!r} needs a {names} there")
        return {}
    rows = _read_rows(path)
    has = {name for row in rows for name in row}
    missing = [each for each in ("file_name", *columns.values()) if each not in has]
    if missing and columns:
        raise SourceError(
            f"{path}: no column {missing[0]!r}: it has {', '.join(sorted(has)) or 'none'}"
        )
    return {str(row["file_name"]): row for row in rows if row.get("file_name")}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix == ".csv":
                return [
                    {key: value for key, value in row.items() if isinstance(key, str)}
                    for row in csv.DictReader(file)
                ]
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path}: not readable ({error}): correct or remove it") from error
    if not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{path}: want one JSON object a line")
    return rows
