"""Rows of a table, one at a time: CSV, TSV, JSON lines, parquet, `datasets` folders, arrays."""

import os
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.parquet import open_parquet
from factory.core.text_rows import DELIMITERS, JSON_LINES, parse_again, scan_rows
from factory.data.images.layout import find_files

ARRAY = "embedding"
"""The column of a .npy file, which has no names."""
ARRAYS = frozenset({".npy", ".safetensors"})
_GROUPS = 2
"""Row groups of a parquet file in memory: rows are mostly read in order."""
_AHEAD = 32
"""Rows that are converted at a time, likewise."""
_TENSORS = frozenset(
    {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"}
)
"""Types of safetensors that numpy has."""


class Rows(ABC):
    """A table; nothing but its names and their places stays in memory where it is large.

    Attributes:
        path: of the file or folder.
        header: its columns.
    """

    path: Path
    header: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows."""

    @abstractmethod
    def read(self, index: int, columns: Sequence[str]) -> Mapping[str, Any]:
        """Returns some columns of a row; text of a CSV file stays text.

        Raises:
            SourceError: they cannot be read.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Returns where a row stands, for messages: `FILE:LINE` or `FILE#ROW`."""


def open_rows(path: Path) -> Rows:
    """Opens a table.

    Raises:
        SourceError: no such file or folder, none of these kinds, or no rows in it.
    """
    suffix = path.suffix.lower()
    rows: Rows
    if suffix in ARRAYS and path.is_file():
        rows = _ArrayRows(path)
    elif suffix in DELIMITERS or suffix in JSON_LINES:
        rows = _TextRows(path)
    else:
        found = find_files(path)
        if found.kind != "table" or any(each.suffix.lower() not in _OPEN for each in found.paths):
            raise SourceError(
                f"{path}: no table: give csv, tsv, jsonl, parquet, npy, safetensors, or a folder "
                "that `datasets` saved"
            )
        rows = _ArrowRows(path, found.paths)
    if not len(rows):
        raise SourceError(f"{path}: holds no rows")
    return rows


class _TextRows(Rows):
    """Rows of text, read once whole to check them, and then one by one where they stand."""

    def __init__(self, path: Path) -> None:
        self.path, self._suffix = path, path.suffix.lower()
        self._lines, self._starts, self._ends = array("Q"), array("Q"), array("Q")
        self._stamp, self.header = (0, 0), ()
        for (line, start, end), row in scan_rows(path):
            if not self._lines:
                self._stamp, self.header = _take_stamp(path.stat()), tuple(row)
            self._lines.append(line)
            self._starts.append(start)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int, columns: Sequence[str]) -> Mapping[str, Any]:
        row = self._read_again(index)
        missing = [name for name in columns if name not in row]
        if missing:
            has = ", ".join(row)
            raise SourceError(f"{self.place(index)}: no field {missing[0]!r}: it has {has}")
        return {name: row[name] for name in columns}

    def place(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"

    def _read_again(self, index: int) -> dict[str, Any]:
        start = self._starts[index]
        try:
            with self.path.open("rb") as file:
                stamp = _take_stamp(os.fstat(file.fileno()))
                file.seek(start)
                data = file.read(self._ends[index] - start)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error})") from error
        if stamp != self._stamp:
            raise SourceError(f"{self.path}: changed since its rows were read: start anew")
        return parse_again(data, self._suffix, self.header)


def _take_stamp(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


class _ArrowRows(Rows):
    """Rows of parquet files, read by row group, or of the arrow files that `datasets` saves."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path = path
        self._parts: list[tuple[Path, int]] = []
        self._firsts: list[int] = []
        total = 0
        sizes: list[int] = []
        headers: dict[tuple[str, ...], Path] = {}
        for file in files:
            names, groups = _OPEN[file.suffix.lower()](file)
            headers.setdefault(names, file)
            self._firsts += [total] * len(groups)
            total += sum(groups)
            self._parts += [(file, group) for group in range(len(groups))]
            sizes += groups
        if len(headers) > 1:
            one, other = list(headers.values())[:2]
            raise SourceError(f"{path}: {one.name} and {other.name} have other columns: give one")
        self.header = next(iter(headers), ())
        self._starts = list(accumulate(sizes, initial=0))
        self._read: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._ahead: tuple[Any, list[dict[str, Any]]] = (None, [])

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int, columns: Sequence[str]) -> Mapping[str, Any]:
        part = bisect_right(self._starts, index) - 1
        block, row = divmod(index - self._starts[part], _AHEAD)
        key = (part, tuple(columns))
        if self._ahead[0] != (key, block):
            table = self._read_columns(part, tuple(columns))
            self._ahead = (key, block), table.slice(block * _AHEAD, _AHEAD).to_pylist()
        return self._ahead[1][row]

    def _read_columns(self, part: int, columns: tuple[str, ...]) -> Any:
        """Returns columns of a row group, kept where it was read last."""
        key = (part, columns)
        if key not in self._read:
            self._read[key] = _read_part(*self._parts[part], columns)
            if len(self._read) > _GROUPS:
                self._read.popitem(last=False)
        return self._read[key]

    def place(self, index: int) -> str:
        part = bisect_right(self._starts, index) - 1
        return f"{self._parts[part][0]}#{index - self._firsts[part]}"


class _ArrayRows(Rows):
    """Rows of arrays that share their first axis; files are mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            is_numpy = path.suffix.lower() == ".npy"
            self._arrays = _open_numpy(path) if is_numpy else _open_tensors(path)
            lengths = {name: int(array.get_shape()[0]) for name, array in self._arrays.items()}
        except (OSError, ValueError, TypeError, IndexError, SourceError) as error:
            raise SourceError(f"{path}: not readable as arrays ({error})") from error
        if len(set(lengths.values())) > 1:
            raise SourceError(f"{path}: arrays of different lengths: {lengths}: one row an image")
        self.header, self._length = tuple(lengths), next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def read(self, index: int, columns: Sequence[str]) -> Mapping[str, Any]:
        try:
            found = {name: self._arrays[name][index] for name in columns}
        except SourceError as error:
            raise SourceError(f"{self.path}: {error}") from error
        return {name: each if each.ndim else each.item() for name, each in found.items()}

    def place(self, index: int) -> str:
        return f"{self.path}#{index}"


class _Mapped:
    """A .npy file, as slices of safetensors are."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def get_shape(self) -> tuple[int, ...]:
        return tuple(self._array.shape)

    def __getitem__(self, index: int) -> Any:
        return self._array[index]


class _Tensor:
    """A tensor of a .safetensors file, of a type that numpy has."""

    def __init__(self, name: str, tensor: Any) -> None:
        self._name, self._tensor = name, tensor

    def get_shape(self) -> tuple[int, ...]:
        return tuple(self._tensor.get_shape())

    def __getitem__(self, index: int) -> Any:
        kind = self._tensor.get_dtype()
        if kind not in _TENSORS:
            raise SourceError(f"tensor {self._name!r} is of {kind}: save it as float32")
        return self._tensor[index]


def _open_numpy(path: Path) -> dict[str, Any]:
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "fiu":
        raise SourceError(f"want numbers, got {array.dtype}")
    return {ARRAY: _Mapped(array)}


def _open_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
        names = file.keys()  # a list: the file is no mapping
        tensors = {name: _Tensor(name, file.get_slice(name)) for name in names}
        return {name: each for name, each in tensors.items() if each.get_shape()}
    except SafetensorError as error:
        raise SourceError(str(error)) from error


def _open_parquet(path: Path) -> tuple[tuple[str, ...], list[int]]:
    try:
        with open_parquet(path) as table:
            return tuple(table.schema.names), list(table.groups)
    except StoreError as error:
        raise SourceError(str(error)) from error


def _open_arrow(path: Path) -> tuple[tuple[str, ...], list[int]]:
    table = _map_arrow(path)
    return tuple(table.schema.names), [int(table.num_rows)]


_OPEN = {".parquet": _open_parquet, ".arrow": _open_arrow}


def _map_arrow(path: Path) -> Any:
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path}: not a readable arrow file ({error})") from error
    return table


def _read_part(path: Path, group: int, columns: Sequence[str]) -> Any:
    """Returns columns of a row group, or of an arrow file, in their storage types."""
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".arrow":
            table = _map_arrow(path)
            twice = [name for name in columns if table.schema.names.count(name) > 1]
            if twice:
                raise SourceError(f"{path}: column {twice[0]!r} stands twice: remove one")
            table = table.select(list(columns))
        else:
            with open_parquet(path, memory_map=True) as file:
                table = file.read_group(group, columns)
    except (StoreError, KeyError) as error:
        raise SourceError(str(error)) from error
    plain = [
        pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if isinstance(column.type, pa.BaseExtensionType)
        else column
        for column in table.columns
    ]
    return pa.table(plain, names=table.column_names)
