"""Rows of parquet files and of the arrow files that `datasets` saves, read without `datasets`.

`factory validate` lists images too, and must not wait for `datasets` (and torch with it) to load.
What `save_to_disk` writes is the Arrow stream format, with the features in the schema's metadata.
"""

import functools
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.notes import tell
from factory.core.parquet import open_parquet, read_schema
from factory.data.images.image import SourceImage, Wanted, read_name, read_text

LABELS, CAPTIONS = ("class_name", "label"), ("caption", "text")
Stamp = tuple[int, int]
"""Time (ns) and size of a file: another file of the same name is opened anew."""
_ROWS = 1024
"""Rows of arrow files in memory at a time."""


def list_tables(files: Sequence[Path], root: Path, wanted: Wanted) -> Iterator[SourceImage]:
    """Yields the rows of parquet or arrow files.

    Raises:
        SourceError: an unreadable file, a column that is missing, a label without a name, or a
            group pattern.
    """
    if wanted.pattern is not None:
        raise SourceError(f"{root}: group_pattern reads file names: give group_column for rows")
    for path in files:
        yield from _list_table(path, root, wanted)


def _list_table(path: Path, root: Path, wanted: Wanted) -> Iterator[SourceImage]:
    schema = _read_schema(path)
    label, caption = wanted.label or _find(schema, LABELS), wanted.caption
    image_column = _choose_image(schema, wanted.image, path)
    for column in (label, wanted.group, caption):
        if column is not None and column not in schema.names:
            has = ", ".join(schema.names)
            raise SourceError(f"{path}: no column {column!r}: it has {has}")
    caption = caption or _find(schema, CAPTIONS, text_only=True)
    names = _read_label_names(path, schema.metadata, label)
    stem = path.name if path == root else path.relative_to(root).as_posix()
    first = 0
    for rows, columns in _iterate_columns(path, [c for c in (label, wanted.group, caption) if c]):
        nothing = [None] * rows
        labels, groups, captions = (
            columns[name] if name else nothing for name in (label, wanted.group, caption)
        )
        for place in range(rows):
            row = first + place
            yield SourceImage(
                f"{stem}#{row}",
                _name_class(labels[place], names, f"{path}#{row}"),
                read_name(groups[place], f"{path}#{row}", "patient or slide"),
                path,
                row,
                image_column,
                read_text(captions[place], f"{path}#{row}", str(caption)),
            )
        first += rows


def _choose_image(schema: Any, asked: str | None, path: Path) -> str:
    """Returns the column of the images: the one asked for, else `image`, else the only one.

    Raises:
        SourceError: there is none, or several.
    """
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    has = ", ".join(kinds)
    if asked is not None and asked not in kinds:
        raise SourceError(f"{path}: no column {asked!r}: it has {has}")
    if asked is not None or "image" in kinds:
        return asked or "image"
    structs = [
        name
        for name, kind in kinds.items()
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    ]
    raw = [
        name for name, kind in kinds.items() if types.is_binary(kind) or types.is_large_binary(kind)
    ]
    found = structs or raw
    if len(found) != 1:
        what = f"{', '.join(found)} may hold the images" if found else f"it has {has}"
        raise SourceError(f"{path}: no column 'image': {what}: name it with image_column")
    tell(f"{path}: its images are those of column {found[0]!r}")
    return str(found[0])


def iterate_rows(images: Iterable[SourceImage], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields, for each image, those of some columns that its row has; nothing where it is no row.

    The columns of one row group are in memory at a time: images should follow each other as they do
    in their files.

    Raises:
        SourceError: an unreadable file.
    """
    known: tuple[Path, range] = Path(), range(0)
    cells: dict[str, list[Any]] = {}
    for image in images:
        if image.row is None or image.path.suffix not in (".parquet", ".arrow"):
            yield {}
            continue
        if image.path != known[0] or image.row not in known[1]:
            known, cells = _read_cells(image.path, image.row, columns)
        yield {name: values[image.row - known[1].start] for name, values in cells.items()}


def list_fields(path: Path) -> tuple[str, ...]:
    """Returns the names of a file's columns.

    Raises:
        SourceError: an unreadable file.
    """
    return tuple(_read_schema(path).names)


def count_rows(path: Path) -> int:
    """Returns the rows of a file, 1 for one that is damaged, which reading it tells."""
    try:
        with _name_damage(path):
            if path.suffix == ".arrow":
                return int(_open_arrow(path, _take_stamp(path)).num_rows)
            with open_parquet(path) as file:
                return file.num_rows
    except SourceError:
        return 1


def _find(schema: Any, candidates: Sequence[str], text_only: bool = False) -> str | None:
    from pyarrow import types

    def fits(name: str) -> bool:
        kind = schema.field(name).type
        return not text_only or types.is_string(kind) or types.is_large_string(kind)

    return next((name for name in candidates if name in schema.names and fits(name)), None)


def _name_class(value: Any, names: Sequence[str] | None, where: str) -> str | None:
    """Returns the class of a label; -1 is how `datasets` says that there is none."""
    if names is None or not isinstance(value, int):
        return read_name(value, where, "class")
    if value >= len(names):
        raise SourceError(f"{where}: label {value}, but its ClassLabel has {len(names)} names")
    return names[value] if value >= 0 else None


def _read_label_names(
    path: Path, metadata: dict[bytes, bytes] | None, label: str | None
) -> list[str] | None:
    if not metadata or b"huggingface" not in metadata or label is None:
        return None
    try:
        features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
        names: list[str] | None = features.get(label, {}).get("names")
    except (ValueError, AttributeError) as error:
        raise SourceError(f"{path}: its features are damaged ({error})") from error
    return names


# --- files ---------------------------------------------------------------------------------------


def read_cell(path: Path, row: int, column: str) -> bytes:
    """Returns the image bytes of one row.

    Raises:
        SourceError: an unreadable file, or no image there.
    """
    with _name_damage(path):
        stamp = _take_stamp(path)
        if path.suffix == ".arrow":
            cell: Any = _open_arrow(path, stamp).column(column)[row].as_py()
        else:
            starts = _find_groups(path, stamp)
            number = bisect_right(starts, row) - 1
            cell = _read_group(path, stamp, number, column)[row - starts[number]].as_py()
        data: Any = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(cell, dict) and data is None and cell.get("path"):
            return _find_beside(path, row, str(cell["path"])).read_bytes()
    if not isinstance(data, bytes):
        raise SourceError(f"{path}#{row}: column {column!r} holds no image bytes")
    return data


def _find_beside(path: Path, row: int, name: str) -> Path:
    """Returns the file that a cell names, which lies below the folder of its table.

    Raises:
        SourceError: it lies elsewhere: a table of somebody else's must not say what is read here.
    """
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100 - links are followed, `..` is not
    found = Path(os.path.normpath(folder / name))
    if folder not in found.parents:
        raise SourceError(
            f"{path}#{row}: names the image {name!r}, which is not below {path.parent}: put the "
            "images there, or their bytes into the table"
        )
    return found


def _read_schema(path: Path) -> Any:
    with _name_damage(path):
        if path.suffix == ".arrow":
            return _open_arrow(path, _take_stamp(path)).schema
        return read_schema(path)


def _iterate_columns(
    path: Path, names: Sequence[str]
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Yields the number of rows, and the values of some columns, of one row group at a time."""
    unique = [*dict.fromkeys(names)]
    with _name_damage(path):
        stamp = _take_stamp(path)
        starts = _find_groups(path, stamp)
    for number, start in enumerate(starts[:-1]):
        with _name_damage(path):
            table = _read_part(path, stamp, number, unique)
            found = {name: table.column(name).to_pylist() for name in unique}
        yield starts[number + 1] - start, found


def _read_cells(
    path: Path, row: int, names: Sequence[str]
) -> tuple[tuple[Path, range], dict[str, list[Any]]]:
    """Returns the place of the row group that holds a row, and those of some columns it has."""
    with _name_damage(path):
        stamp = _take_stamp(path)
        starts = _find_groups(path, stamp)
        number = bisect_right(starts, row) - 1
        has = _read_schema(path).names
        table = _read_part(path, stamp, number, [name for name in names if name in has])
        place = path, range(starts[number], starts[number + 1])
        return place, {name: table.column(name).to_pylist() for name in table.column_names}


def _read_part(path: Path, stamp: Stamp, number: int, names: Sequence[str]) -> Any:
    """Returns some columns of a row group, or of as many rows of an arrow file."""
    if path.suffix == ".arrow":
        return _open_arrow(path, stamp).select(names).slice(number * _ROWS, _ROWS)
    with open_parquet(path) as file:
        return file.read_group(number, names)


@contextmanager
def _name_damage(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except StoreError as error:
        raise SourceError(str(error)) from error
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        kind = "arrow" if path.suffix == ".arrow" else "parquet"
        raise SourceError(f"{path}: not a readable {kind} file ({error})") from error


def _take_stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=32)
def _open_arrow(path: Path, stamp: Stamp) -> Any:
    """Maps an arrow file into memory; its offsets are checked, as reading trusts them."""
    import pyarrow as pa

    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    table.validate(full=True)
    return table


@functools.lru_cache(maxsize=256)
def _find_groups(path: Path, stamp: Stamp) -> tuple[int, ...]:
    """Returns the first row of each row group, or of each part of an arrow file; last, all rows."""
    if path.suffix == ".arrow":
        rows = int(_open_arrow(path, stamp).num_rows)
        return (*range(0, rows, _ROWS), rows)
    with open_parquet(path) as table:
        return tuple(accumulate(table.groups, initial=0))


@functools.lru_cache(maxsize=4)
def _read_group(path: Path, stamp: Stamp, number: int, column: str) -> Any:
    """Returns a column of one row group; a few are kept, as images are mostly read in order."""
    with open_parquet(path, memory_map=True) as table:
        return table.read_group(number, [column]).column(column)
