"""Opens parquet files to read them: the one place that does.

Arrow reads columns on threads of its own, ahead of what is asked for. Through a Python stream these
threads may still hold Python's objects when the interpreter ends, which then aborts (SIGABRT, after
all was done). So nothing is read ahead anywhere, and a stream is read on the caller's thread alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import DamageError, FactoryError, MissingError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetTable:
    """An open parquet file; every failure to read it names it.

    Attributes:
        name: of the file, for messages.
        schema: Arrow schema, with its metadata.
        num_rows: rows of all groups.
        groups: rows of each row group.
        data_bytes: bytes of all columns before they were compressed.
    """

    def __init__(self, file: Any, name: str, use_threads: bool) -> None:
        self._file, self.name, self._use_threads = file, name, use_threads
        self.schema: pa.Schema = file.schema_arrow
        self.num_rows = int(file.metadata.num_rows)
        parts = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
        self.groups = tuple(int(part.num_rows) for part in parts)
        self.data_bytes = sum(int(part.total_byte_size) for part in parts)

    def read(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Returns all rows.

        Args:
            columns: only these, in this order; None: all.

        Raises:
            DamageError: unreadable, or a column is missing.
        """
        wanted = self._check(columns)
        with _name_damage(self.name):
            return _pick(self._file.read(wanted, use_threads=self._use_threads), wanted)

    def read_group(self, place: int, columns: Sequence[str] | None = None) -> "pa.Table":
        """Returns the rows of one row group.

        Raises:
            DamageError: unreadable, or a column is missing.
        """
        wanted = self._check(columns)
        with _name_damage(self.name):
            found = self._file.read_row_group(place, wanted, use_threads=self._use_threads)
            return _pick(found, wanted)

    def iterate_batches(
        self,
        rows: int,
        columns: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
    ) -> Iterator["pa.RecordBatch"]:
        """Yields all rows in order, so many at a time.

        Args:
            rows: of a batch.
            columns: only these; None: all.
            groups: row groups to read; None: all.

        Raises:
            DamageError: unreadable, or a column is missing; what was yielded before is sound.
        """
        options = {"columns": self._check(columns), "use_threads": self._use_threads}
        with _name_damage(self.name):
            batches = self._file.iter_batches(rows, row_groups=groups, **options)
        while True:
            with _name_damage(self.name):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _check(self, columns: Sequence[str] | None) -> list[str] | None:
        missing = [name for name in columns or () if name not in self.schema.names]
        if missing:
            has = ", ".join(self.schema.names)
            raise DamageError(f"{self.name}: has no column {missing[0]!r}: it has {has}")
        twice = [name for name in columns or () if self.schema.names.count(name) > 1]
        if twice:
            raise DamageError(
                f"{self.name}: column {twice[0]!r} stands twice: rename or remove one"
            )
        return None if columns is None else list(dict.fromkeys(columns))


@contextmanager
def open_parquet(
    source: Any,
    name: str = "",
    *,
    buffer_size: int = 0,
    memory_map: bool = False,
    check_pages: bool = False,
) -> Iterator[ParquetTable]:
    """Opens a parquet file.

    Args:
        source: path, bytes, or a stream that the caller closes.
        name: of the file, for messages; default: the path.
        buffer_size: bytes of a column to read at a time; 0: all of a row group.
        memory_map: map a file into memory.
        check_pages: compare the pages' checksums, where they have some.

    Raises:
        MissingError: no such file.
        DamageError: it is no parquet file, or damaged.
        StoreError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = name or str(source)
    with _name_damage(name):
        file = pq.ParquetFile(
            pa.BufferReader(source) if isinstance(source, bytes) else source,
            buffer_size=buffer_size,
            memory_map=memory_map,
            page_checksum_verification=check_pages,
            pre_buffer=False,
        )
    with file:
        yield ParquetTable(file, name, isinstance(source, Path))


def read_parquet(source: Any, columns: Sequence[str] | None = None, name: str = "") -> "pa.Table":
    """Returns all rows of a parquet file; `source` and errors as of `open_parquet`."""
    with open_parquet(source, name) as table:
        return table.read(columns)


def read_schema(source: Any, name: str = "") -> "pa.Schema":
    """Returns the schema of a parquet file; `source` and errors as of `open_parquet`."""
    with open_parquet(source, name) as table:
        return table.schema


def count_rows(source: Any, name: str = "") -> int:
    """Returns the rows of a parquet file; `source` and errors as of `open_parquet`."""
    with open_parquet(source, name) as table:
        return table.num_rows


def _pick(table: "pa.Table", columns: list[str] | None) -> "pa.Table":
    return table if columns is None else table.select(columns)


@contextmanager
def _name_damage(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FactoryError:
        raise  # of a stream of ours: the network failed, and not the file
    except FileNotFoundError as error:
        raise MissingError(f"{name}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"{name}: cannot be read ({error.strerror}): fix access") from error
        text = " ".join(str(error).split())
        raise DamageError(f"{name}: not a readable parquet file: damaged ({text})") from error
