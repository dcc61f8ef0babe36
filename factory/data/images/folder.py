"""ImageFolders: classes and groups from folders, and a metadata file that may tell more."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError
from factory.core.notes import tell
from factory.core.text_rows import read_rows
from factory.data.images.image import SourceImage, Wanted, match_group, read_name, read_text
from factory.data.images.layout import Found
from factory.data.images.passed import METADATA
from factory.data.images.splits import Placed

CAPTIONS = ("caption", "text")
Row = Mapping[str, Any]


def list_folder(found: Found, root: Path, wanted: Wanted) -> list[SourceImage]:
    """Lists image files; `metadata.csv` or `metadata.jsonl` in `root` adds what it knows.

    The first folder level is the class. Where every class has a next level, that is the group (the
    patient or slide), unless a column or pattern tells it.

    Raises:
        SourceError: a column asked for is missing, the metadata names none of the images, or
            folders that can be read in two ways.
    """
    table = _read_metadata(found, root, wanted)
    has = {name for row in table.values() for name in row}
    caption = wanted.caption or next((name for name in CAPTIONS if name in has), None)
    folders = _read_folders(found.files, root, wanted)
    images = []
    for placed, (class_name, group) in zip(found.files, folders, strict=True):
        path = placed.path
        key, row = "/".join(path.parts[len(root.parts) :]), table.get(path, {})
        name: Any = row.get(wanted.label) if wanted.label is not None else class_name
        if wanted.group is not None:
            of: Any = row.get(wanted.group)
        else:
            of = match_group(path.name, wanted.pattern) if wanted.pattern else group
        images.append(
            SourceImage(
                key,
                read_name(name, f"{root}/{key}", "class"),
                read_name(of, f"{root}/{key}", "patient or slide"),
                path,
                caption=read_text(row.get(caption), f"{root}/{key}", caption) if caption else None,
            )
        )
    return images


def _read_folders(
    files: Sequence[Placed], root: Path, wanted: Wanted
) -> list[tuple[str | None, str | None]]:
    """Returns class and group of each image, by its folders.

    Raises:
        SourceError: one folder that holds folders, or classes with and without a further level.
    """
    nothing = [(None, None)] * len(files)
    if wanted.label is not None:
        return [*nothing]
    deep = [each for each in files if len(each.folders) > 1]
    if not deep:
        return [(each.folders[0] if each.folders else None, None) for each in files]
    first = deep[0].folders
    tops = {each.folders[0] for each in files if each.folders}
    if len(tops) == 1:
        raise SourceError(
            f"{root}: {first[0]} is its only folder, and holds folders ({first[1]}): give "
            f"{_find_folder(deep[0], 1)} if they are the classes; if {first[0]} is a class "
            "and they are patients or slides, give label_column and group_column of a metadata.csv"
        )
    if wanted.group is None and wanted.pattern is None:
        flat = next((each for each in files if len(each.folders) == 1), None)
        if flat is not None:
            raise SourceError(
                f"{root}: {_show(deep[0], root)} lies in a folder of its class, but "
                f"{_show(flat, root)} does not, so that {first[1]} may be a class or a patient: "
                "put all classes at the first level, or patients or slides into every class, or "
                "give group_column or group_pattern"
            )
        inside = [{each.folders[1] for each in deep if each.folders[0] == top} for top in tops]
        if len(tops) > len(inside[0]) > 1 and all(each == inside[0] for each in inside):
            names, both = ", ".join(sorted(tops)[:3]), ", ".join(sorted(inside[0])[:3])
            raise SourceError(
                f"{root}: each of its {len(tops):,} folders ({names}) holds the same ({both}), so "
                "that either may be the classes: put classes at the first level and give "
                "group_column or group_pattern, or give label_column of a metadata.csv"
            )
        groups = {each.folders[1] for each in deep}
        tell(
            f"{root}: its folders are read as {len(tops):,} classes ({first[0]}, ...) and, in "
            f"them, {len(groups):,} patients or slides ({first[1]}, ...); put classes at the first "
            "level if that is wrong"
        )
    return [
        (
            each.folders[0] if each.folders else None,
            each.folders[1] if len(each.folders) > 1 else None,
        )
        for each in files
    ]


def _find_folder(placed: Placed, levels: int) -> Path:
    """Returns the folder of an image's first levels."""
    up = len(placed.folders) - levels
    return placed.path.parent if up == 0 else placed.path.parents[up]


def _show(placed: Placed, root: Path) -> str:
    return placed.path.relative_to(root).as_posix()


# --- metadata ------------------------------------------------------------------------------------


def _read_metadata(found: Found, root: Path, wanted: Wanted) -> dict[Path, Row]:
    """Returns image -> row; empty where nothing is asked for and nothing is declared.

    It lies in `root`, or in the folder of the split that is read.
    """
    asked = wanted.list_columns()
    homes = [root, *dict.fromkeys(each.split_folder for each in found.files if each.split_folder)]
    paths = (home / name for home in homes for name in METADATA)
    path = next((each for each in paths if each.is_file()), None)
    _tell_strays(found, path, root)
    if path is None:
        if asked:
            name, column = next(iter(asked.items()))
            names = " or ".join(METADATA)
            raise SourceError(f"{root}: {name} {column!r} needs a {names} there")
        return {}
    rows = [*read_rows(path)]
    has = {name for _, row in rows for name in row}
    missing = [each for each in ("file_name", *asked.values()) if each not in has]
    if missing and asked:
        raise SourceError(
            f"{path}: no column {missing[0]!r}: it has {', '.join(sorted(has)) or 'none'}"
        )
    if "file_name" not in has:
        tell(f"{path}: passed over, as it has no column 'file_name'")
        return {}
    return _match_rows(rows, path, found, bool(asked))


def _tell_strays(found: Found, read: Path | None, root: Path) -> None:
    """Says which metadata files are not read; those of splits that are left out go with them."""
    chosen = {parent for each in found.files for parent in each.path.parents}
    left = {parent for path in found.known for parent in path.parents} - chosen
    strays = [path for path in found.metadata if path != read and path.parent not in left]
    if strays:
        many, their = ("s", "their") if len(strays) > 1 else ("", "its")
        name = strays[0].relative_to(root).as_posix()
        into = f"{root}/{METADATA[0]}" if read is None else str(read)
        what = f"{len(strays):,} metadata file{many} passed over ({name})"
        tell(f"{root}: {what}: write {their} rows into {into}, the one that is read")


def _match_rows(
    rows: Sequence[tuple[int, Row]], path: Path, found: Found, is_asked: bool
) -> dict[Path, Row]:
    """Returns image -> row, and says which rows and images have no partner.

    Raises:
        SourceError: a file named twice, or none of the images is named.
    """
    table: dict[Path, Row] = {}
    lines: dict[Path, int] = {}
    absent = []
    for line, row in rows:
        name = row.get("file_name")
        image = path.parent / str(name or "")
        if not name or image not in found.known:
            absent.append(f"line {line}: {name or 'no file_name'}")
        elif image in table:
            raise SourceError(
                f"{path}:{line}: {name} stands twice, first at line {lines[image]}: remove one"
            )
        else:
            table[image], lines[image] = row, line
    without = [each.path for each in found.files if each.path not in table]
    if is_asked and found.files and len(without) == len(found.files):
        raise SourceError(
            f"{path}: its file_name names none of the images "
            f"({without[0].relative_to(path.parent).as_posix()})"
        )
    counts = Counter({"rows name no image there": len(absent), "images have no row": len(without)})
    examples = {
        "rows name no image there": absent[:1],
        "images have no row": [str(each.name) for each in without[:1]],
    }
    for what, count in counts.items():
        if count:
            tell(f"{path}: {count:,} {what} ({examples[what][0]})")
    return table
