"""Final parquet files: rows of one schema, cut into files of a fixed number of rows."""

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.files.store import FileStore
from factory.core.files.streams import HashedStream, NumberedFiles
from factory.data.channel_tables import measure_channels

ROW_GROUP = 256
"""Rows per row group: small enough for the Hub's viewer to read one page of images."""


CHANNEL_BYTES = 64 << 20
"""Bytes of channels in a row group, at most, but for one row: they are many where there are any."""
MAX_FILES = 10_000
"""Files that the Hub takes in one folder."""


def fit_rows_per_file(total: int, per_file: int) -> int:
    """Returns the rows of a file: as asked, or more where a folder would hold too many files."""
    return max(per_file, -(-total // MAX_FILES))


def fit_row_group(schema: pa.Schema) -> int:
    """Returns the rows of a row group: fewer where channels are large."""
    return max(1, min(ROW_GROUP, CHANNEL_BYTES // max(1, measure_channels(schema))))


class ParquetFiles(NumberedFiles):
    """Writes tables in order into `folder/split-00000-of-00003.parquet`.

    `total` is the rows of all files, `first` the number of the first that is written here. Files
    hold `per_file` rows, and more where the Hub would refuse so many files. Pages carry
    checksums, so that readers who ask for them find a flipped bit.
    """

    def __init__(
        self,
        files: FileStore,
        folder: str,
        split: str,
        schema: pa.Schema,
        total: int,
        per_file: int,
        first: int = 0,
    ) -> None:
        super().__init__(first)
        self.files, self.folder, self.split, self.schema = files, folder, split, schema
        self.per_file = fit_rows_per_file(total, per_file)
        self.count = max(1, -(-total // self.per_file))
        self.per_group = fit_row_group(schema)
        self._buffered: list[pa.Table] = []
        self._room = 0

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        while len(table):
            if self._writer is None:
                self._start()
            part, table = table.slice(0, self._room), table.slice(self._room)
            self._buffered.append(part)
            self._room -= len(part)
            self.rows += len(part)
            if sum(map(len, self._buffered)) >= self.per_group or not self._room:
                self._flush()
            if not self._room:
                self._finish()

    def close(self) -> None:
        """Ends the last file; an empty set still gets one file, so that its schema is known."""
        if self._writer is None and not self.names:
            self._start()
        if self._writer is not None:
            self._flush()
            self._finish()

    def _start(self) -> None:
        number = self.first + len(self.names)
        name = f"{self.folder}/{self.split}-{number:05d}-of-{self.count:05d}.parquet"
        self._stream = HashedStream(self.files.open(name, "wb"))
        self._writer = pq.ParquetWriter(
            self._stream, self.schema, compression="zstd", write_page_checksum=True
        )
        self._room = self.per_file
        self.names.append(name)

    def _flush(self) -> None:
        if self._buffered:
            self._writer.write_table(
                pa.concat_tables(self._buffered), row_group_size=self.per_group
            )
            self._buffered = []

    def _finish(self) -> None:
        self._end_file()
