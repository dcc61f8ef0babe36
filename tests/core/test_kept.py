"""Arrays kept in a temporary file: what was put in comes out, and memory does not hold it."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from factory.core.errors import StoreError
from factory.core.files import rows as rows_module
from factory.core.files import temporary
from factory.core.files.kept import KeptRows
from factory.core.files.keys import KeyFile
from factory.core.files.rows import RowFile, average_rows
from factory.core.files.temporary import make_temporary
from factory.core.notes import listen


class Numbers(RowFile):
    """Rows of three."""

    dtype, width = np.int16, 3


VALUES = np.arange(60, dtype=np.int16).reshape(20, 3)


def test_arrays_come_back_by_key_in_any_order_and_number():
    kept = KeptRows[str](np.uint8)
    values = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    kept.add(["a", "b"], values[:2])
    assert kept.list_lacking(["c", "a", "d", "c"]) == ["c", "d"]
    kept.add(["c", "d", "e"], values[2:])
    assert (kept.read(["e", "a", "a", "c"]) == values[[4, 0, 0, 2]]).all()
    assert kept.read(["b"]).flags.writeable


def test_rows_of_a_file_that_was_cut_are_no_rows(tmp_path):
    (file := Numbers(tmp_path / "rows")).add(VALUES)
    for rows in ([], [3], [4, 5, 6, 19], [9, 8, 8, 0, 1]):
        assert (file.pick(np.array(rows, np.int64)) == VALUES[rows]).all()
    assert (file.read(3, 9) == VALUES[3:9]).all()
    assert file.read(20, 20).shape == (0, 3)
    os.truncate(file.path, 100)
    with pytest.raises(StoreError, match="rows: ends before row 17: "):
        file.pick(np.array([2, 15, 16, 17]))
    with pytest.raises(StoreError, match="rows: ends before row 19: "):
        file.read(0, 20)


def test_means_of_rows_in_blocks_are_those_of_numpy_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_BLOCK", 64)
    values = np.random.default_rng(0).integers(-999, 999, (1000, 3), np.int16)
    (file := Numbers(tmp_path / "rows")).add(values)
    whole = values.astype(np.float64)
    assert (average_rows(file) == whole.mean(axis=0)).all()
    spread = average_rows(file, 2, whole.mean(axis=0))
    assert (np.sqrt(spread) == whole.std(axis=0)).all()


def test_keys_of_a_file_that_was_cut_are_no_keys(tmp_path):
    (file := KeyFile(tmp_path / "keys")).add(np.array([5, 7, 5], np.uint64))
    assert file.find_repeated() == {5}
    os.truncate(file.path, 16)
    with pytest.raises(StoreError, match="keys: ends before row 2: "):
        file.find_repeated()


def test_a_full_disk_is_told_in_words(tmp_path):
    (tmp_path / "rows").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="rows: No space left on device: free space"):
        Numbers(tmp_path / "rows").add(VALUES)


def test_what_a_write_that_failed_left_is_no_row(tmp_path):
    (file := Numbers(tmp_path / "rows")).add(VALUES[:5])
    with file.path.open("ab") as stream:
        stream.write(b"half of")
    file.add(VALUES[5:])
    assert (file.read(0, 20) == VALUES).all()


def test_rows_in_a_folder_that_is_gone_are_told(tmp_path):
    (file := Numbers(tmp_path / "rows")).add(VALUES)
    file.path.unlink()
    for ask in (lambda: file.add(VALUES), lambda: file.read(0, 1)):
        with pytest.raises(StoreError, match=r"rows: No such file.* run the same command again"):
            ask()


def test_no_place_for_a_temporary_folder_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=r"gone/factory-x-.*have TMPDIR name a folder"):
        make_temporary("x")

    def refuse(*given, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(StoreError, match=r"TMPDIR.*make it writable"):
        make_temporary("x")


def test_what_a_killed_process_left_is_removed_and_told_and_nothing_else(tmp_path, monkeypatch):
    text = "import sys; from factory.core.files.temporary import make_temporary\n"
    text += "held = make_temporary('kept'); print(held.name, flush=True); sys.stdin.read()"
    begin = partial(subprocess.Popen, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    both = [begin([sys.executable, "-c", text], env=environment) for _ in range(2)]
    dead, alive = (Path(each.stdout.readline().strip()) for each in both)
    (dead / "rows").write_bytes(b"pixels of a patient")
    both[0].kill()
    both[0].wait()
    (tmp_path / "factory-of-another-kind").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with listen() as heard, make_temporary("copies"):
        assert dead.exists() and not heard  # too young
        for folder in (dead, alive):
            os.utime(folder / temporary.LOCK, (0, 0))
        temporary.remove_left.cache_clear()
        with make_temporary("copies"):
            names = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert names == {"kept", "copies", "of"} and alive.exists() and not dead.exists()
    assert heard == [
        f"{tmp_path}: temporary folders that killed processes had left were removed: 1"
    ]
    both[1].communicate("")
    assert not alive.exists()


def test_what_cannot_be_removed_is_told_and_found_again(tmp_path, monkeypatch):
    folder = tmp_path / "factory-kept-x"
    (folder / "held").mkdir(parents=True)
    lock = folder / temporary.LOCK
    monkeypatch.setattr(shutil, "rmtree", lambda path, **named: (path / temporary.LOCK).unlink())
    for _ in range(2):
        lock.touch()
        os.utime(lock, (0, 0))
        temporary.remove_left.cache_clear()
        with listen() as heard:
            temporary.remove_left(str(tmp_path))
        (told,) = heard
        assert told.startswith(f"{folder}: left by a killed process") and lock.exists()


@pytest.mark.usefixtures("usual_gc")
def test_memory_holds_no_arrays_and_the_file_goes_with_the_object():
    kept = KeptRows[int](np.float32)
    tracemalloc.start()
    for number in range(50):
        kept.add([number], np.zeros((1, 20_000), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 80_000
    folder = Path(kept._folder.name)
    assert folder.exists()
    del kept
    assert not folder.exists()


def test_a_temporary_folder_that_cannot_be_written_is_told(monkeypatch):
    def fail(*given, **named):
        raise OSError(28, "No space left on device")

    kept = KeptRows[str](np.uint8)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StoreError, match=r"factory-kept-.*/rows: No space left"):
        kept.add(["a"], np.zeros((1, 2), np.uint8))
