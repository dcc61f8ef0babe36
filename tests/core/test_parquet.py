"""Reading parquet: rows as written, damage named, and nothing of Arrow's left behind at the end."""

import io
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.errors import DamageError, MissingError, StoreError
from factory.core.parquet import count_rows, open_parquet, read_parquet, read_schema

TABLE = pa.table({"index": range(600), "text": [f"row {i}" for i in range(600)], "x": [0.5] * 600})
LOOPS, READS = 8, 20
READER = f"""
import io, sys
from factory.core.parquet import open_parquet, read_parquet
for _ in range({READS}):
    with open(sys.argv[1], "rb") as stream:
        table = read_parquet(stream)
    with open(sys.argv[1], "rb") as stream, open_parquet(stream) as file:
        rows = sum(len(batch) for batch in file.iterate_batches(64))
    table = read_parquet(open(sys.argv[1], "rb").read())
print(rows, len(table))
"""


class Watched(io.BytesIO):
    """A stream that knows which threads read it."""

    def __init__(self, data):
        super().__init__(data)
        self.threads = set()

    def read(self, *arguments):
        self.threads.add(threading.get_ident())
        return super().read(*arguments)


@pytest.fixture
def path(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=256)
    return tmp_path / "a.parquet"


@pytest.fixture(params=["path", "bytes", "stream"])
def source(request, path):
    if request.param == "path":
        return path
    return path.read_bytes() if request.param == "bytes" else io.BytesIO(path.read_bytes())


def test_rows_come_as_they_were_written(source):
    with open_parquet(source, "a.parquet") as table:
        assert table.groups == (256, 256, 88)
        assert table.num_rows == 600
        assert table.read().equals(TABLE)
        assert table.read(["x", "index", "x"]).column_names == ["x", "index"]
        assert table.read([]).num_columns == 0
        assert table.read_group(2, ["index"])["index"].to_pylist() == list(range(512, 600))
        batches = list(table.iterate_batches(100, ["text"], [0, 2]))
        assert sum(map(len, batches)) == 344
    assert read_schema(source, "a").names == TABLE.column_names
    assert count_rows(source, "a") == 600


def test_damage_is_named(path):
    whole = path.read_bytes()
    with pytest.raises(DamageError, match=r"a\.parquet: has no column 'y': it has index, text, x"):
        read_parquet(path, ["y"])
    for content in (b"", b"PAR1", whole[:-20], b"x" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(DamageError, match=r"a\.parquet: not a readable parquet.*damaged"):
            read_parquet(path)
    path.unlink()
    with pytest.raises(MissingError, match="no such file"):
        read_parquet(path)


def test_a_failure_of_the_stream_is_no_damage(path):
    class Broken(io.BytesIO):
        def read(self, *arguments):
            raise StoreError("cannot be reached")

    with pytest.raises(StoreError, match=r"^cannot be reached$") as caught:
        read_parquet(Broken(path.read_bytes()), name="a")
    assert not isinstance(caught.value, DamageError)


@pytest.mark.stranger
def test_a_stream_is_read_by_the_caller_alone(path):
    stream = Watched(path.read_bytes())
    with open_parquet(stream, "a") as table:
        table.read()
        table.read_group(1)
        list(table.iterate_batches(64))
    assert stream.threads == {threading.get_ident()}
    ahead = Watched(path.read_bytes())
    pq.read_table(ahead)
    assert ahead.threads != stream.threads, "Arrow reads no more ahead: this test proves nothing"


@pytest.mark.slow("test_a_stream_is_read_by_the_caller_alone")
@pytest.mark.stranger
def test_processes_that_read_end_well(path):
    command = [sys.executable, "-c", READER, str(path)]
    for _ in range(LOOPS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "600 600\n"), done.stderr
