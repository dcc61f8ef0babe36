"""Storage: whole objects or none, markers last, damage found."""

import errno
import gc
import io
import os
import sys
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.errors import MismatchError, StoreError
from factory.core.files.store import FileStore
from factory.core.files.streams import StoreStream
from factory.data.records import Shard
from factory.data.writers.parquet import MAX_FILES, ParquetFiles, fit_rows_per_file
from factory.data.writers.webdataset import TarFiles
from factory.engine.run_folder import WORK, Marker, RunFolder
from factory.engine.run_records import digest_worker

SHARD = Shard("0123456789abcdef", 0, 4)
ROW = {
    "sample_id": "ab" * 16, "image": {"bytes": b"\x00\x01", "path": "x.webp"}, "label": 1,
    "class_name": "tumor", "caption": None, "prompt": None, "provenance": "{}", "seed": 3,
}  # fmt: skip
TABLE = pa.table({"index": [0, 1], "text": ["a", "b"]})


@pytest.fixture(params=["local", "memory", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4()}"


def make_marker(**changes):
    data = {
        "shard": SHARD.id, "series": SHARD.series, "start": 0, "stop": 4, "data": "", "sha256": "",
        "bytes": 0, "rows": 2, "asked": 4, "filled": 2, "generated": 2, "rejected": {},
        "reasons": {}, "worker": "w", "seconds": {},
    }  # fmt: skip
    return Marker.model_validate({**data, **changes})


def test_objects_round_trip(url):
    files = FileStore(url)
    assert not files.exists("a/b.bin")
    files.write("a/b.bin", b"12")
    files.write("a/b.bin", b"345")
    assert files.read("a/b.bin") == files.find("a/b.bin") == b"345"
    assert files.find("a/none.bin") is files.find("a/b.bin/none.bin") is None  # b.bin is a file
    files.write("c/d.bin", b"6")
    files.move("a/b.bin", "c/d.bin")
    assert files.list("c") == ("d.bin",)
    assert files.read("c/d.bin") == b"345"
    assert not files.exists("a/b.bin")
    files.remove("c")
    assert files.list("c") == ()


def test_one_of_many_creates_an_object(url):
    files = FileStore(url)
    for name in ("lease.json", "deep/lease.json"):
        with ThreadPoolExecutor(8) as pool:
            mine = [str(number).encode() for number in range(12)]
            won = list(pool.map(lambda data, name=name: files.create(name, data), mine))
        assert won.count(True) == 1
        assert files.read(name) == mine[won.index(True)]
        assert not files.create(name, b"late")
        files.remove(name)
        assert files.create(name, b"late")
    assert files.list("deep") == ("lease.json",)


def test_a_disk_without_links_creates_too(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    files = FileStore(str(tmp_path))
    assert files.create("a.json", b"1")
    assert not files.create("a.json", b"2")
    assert files.read("a.json") == b"1"
    assert files.list("") == ("a.json",)


def test_commit_is_found_by_its_marker(url):
    folder = RunFolder(url)
    assert folder.read_marker(SHARD) is None
    marker = folder.commit(TABLE, make_marker(), SHARD)
    assert folder.read_marker(SHARD) == marker
    assert marker.data.endswith(f"{marker.sha256[:16]}.parquet")
    assert folder.read_table(marker, verify=True).equals(TABLE)
    assert folder.read_table(marker, ["index"]).column_names == ["index"]


def test_a_failed_marker_leaves_the_shard_open(tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path))
    write = FileStore.write

    def fail_on_marker(self, name, data):
        if name.endswith(".json"):
            raise StoreError("no space left")
        write(self, name, data)

    monkeypatch.setattr(FileStore, "write", fail_on_marker)
    with pytest.raises(StoreError):
        folder.commit(TABLE, make_marker(), SHARD)
    monkeypatch.undo()
    assert folder.read_marker(SHARD) is None
    assert folder.commit(TABLE, make_marker(), SHARD).rows == 2


def test_a_full_disk_says_so_and_keeps_what_was_there(tmp_path, monkeypatch):
    files = FileStore(str(tmp_path))
    files.write("x.json", b"old")

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left on device: free space"):
        files.write("x.json", b"new")
    assert files.read("x.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_writers_of_one_name_do_not_disturb_each_other(tmp_path):
    files = FileStore(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(files.write, "x/a.json", b"same") for _ in range(300)]:
            done.result()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.json"]
    assert files.read("x/a.json") == b"same"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_names_the_marker_to_remove(tmp_path, damage):
    folder = RunFolder(str(tmp_path))
    marker = folder.commit(TABLE, make_marker(), SHARD)
    path = tmp_path / WORK / marker.data
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:40] if damage == "truncate" else data)
    with pytest.raises(
        StoreError, match=r"shards/0123456789abcdef-0000000000-0000000004-r0\.json|again"
    ):
        folder.read_table(marker, verify=True)


def test_a_damaged_marker_is_not_read_as_missing(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.commit(TABLE, make_marker(), SHARD)
    (tmp_path / WORK / "shards" / f"{SHARD.id}-r0.json").write_text('{"version": 1}')
    with pytest.raises(StoreError, match="damaged"):
        folder.read_marker(SHARD)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("x")
    with pytest.raises(MismatchError, match=r"thesis\.docx.*empty or new folder"):
        RunFolder(str(tmp_path)).read_run()
    with pytest.raises(MismatchError, match=r"thesis\.docx\): name one that `factory run`") as told:
        RunFolder(str(tmp_path)).require_run()
    assert "--out" not in str(told.value)


def test_quarantine_is_kept_and_released(url):
    folder = RunFolder(url)
    folder.quarantine(SHARD, 0, "boom")
    assert [record.error for record in folder.list_quarantined()] == ["boom"]
    folder.release(SHARD, 0)
    assert folder.list_quarantined() == ()


@pytest.mark.parametrize(("rows", "per_file"), [(0, 10), (7, 3), (600, 600), (601, 300)])
def test_parquet_files_hold_all_rows_in_order(url, rows, per_file):
    files = FileStore(url)
    schema = pa.schema([("index", pa.int64())])
    writer = ParquetFiles(files, "data", "train", schema, rows, per_file)
    for start in range(0, rows, 50):
        part = list(range(start, min(start + 50, rows)))
        writer.write(pa.table({"index": part}, schema=schema))
    writer.close()
    tables = [pq.read_table(io.BytesIO(files.read(name))) for name in writer.names]
    assert pa.concat_tables(tables)["index"].to_pylist() == list(range(rows))
    assert writer.names[-1].endswith(f"-of-{len(writer.names):05d}.parquet")
    assert all(len(table) <= per_file for table in tables)


@pytest.mark.stranger
@pytest.mark.parametrize("first", ["parquet", "tar"])
def test_writers_on_a_full_disk_are_silent_when_they_go(tmp_path, monkeypatch, first):
    def fail(self, data):
        raise StoreError("No space left on device")

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: heard.append(found.exc_value))
    files, schema = FileStore(str(tmp_path)), pa.schema([("index", pa.int64())])
    table = pa.table({"index": list(range(1000))}, schema=schema)

    def write() -> str:
        parquet = ParquetFiles(files, "data", "train", schema, 2000, 2000)
        tars = TarFiles(files, "webdataset", "train", 9)
        try:
            with parquet, tars:
                parquet.write(table)
                tars.write([ROW])
                monkeypatch.setattr(StoreStream, "write", fail)
                if first == "parquet":
                    parquet.write(table)
                tars.write([ROW] * 8)
        except StoreError as error:
            return str(error)
        return ""

    assert write() == "No space left on device"
    gc.collect()
    assert heard == []


def test_the_digest_of_a_worker_is_that_of_its_record(tmp_path):
    made = {"model": "m", "deep": {10: "b", 2: "a"}}
    description = {"generator": made, "filters": [], "score_names": ["x"]}
    folder, digest = RunFolder(str(tmp_path)), digest_worker(description)
    folder.write_worker(digest, description)
    assert folder.read_worker(digest).to_json()["generator"]["deep"] == {"10": "b", "2": "a"}


def test_tars_are_reproducible(tmp_path):
    contents = []
    for name in ("first", "second"):
        files = FileStore(str(tmp_path / name))
        tars = TarFiles(files, "webdataset", "train", 2)
        tars.write([{**ROW, "sample_id": f"{i:032x}"} for i in range(3)])
        tars.close()
        assert tars.names == ["webdataset/train-00000.tar", "webdataset/train-00001.tar"]
        contents.append([files.read(each) for each in tars.names])
    assert contents[0] == contents[1]
    with tarfile.open(fileobj=io.BytesIO(contents[0][0])) as tar:
        names = tar.getnames()
        assert tar.extractfile(names[0]).read() is not None
    suffixes = sorted(name.split(".", 1)[1] for name in names if name.startswith(f"{0:032x}"))
    assert suffixes == ["cls", "json", "txt", "webp"]


@pytest.mark.parametrize(
    ("total", "per_file", "rows"),
    [(0, 5, 5), (10_000, 1, 1), (10_001, 1, 2), (1_000_000, 50, 100), (10**9, 10_000, 100_000)],
)
def test_files_fit_into_a_folder_of_the_hub(tmp_path, total, per_file, rows):
    assert fit_rows_per_file(total, per_file) == rows
    schema = pa.schema([("index", pa.int64())])
    writer = ParquetFiles(FileStore(str(tmp_path)), "data", "train", schema, total, per_file)
    assert writer.count <= MAX_FILES
    assert writer.count * writer.per_file >= total
