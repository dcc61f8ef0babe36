"""Arrays kept in a temporary file: what was put in comes out, and memory does not hold it."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from factory.core.errors import StoreError
from factory.core.files.kept import KeptRows
from factory.core.files.rows import RowFile


def test_arrays_come_back_by_key_in_any_order_and_number():
    kept = KeptRows[str](np.uint8)
    values = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    kept.add(["a", "b"], values[:2])
    assert kept.list_lacking(["c", "a", "d", "c"]) == ["c", "d"]
    kept.add(["c", "d", "e"], values[2:])
    assert (kept.read(["e", "a", "a", "c"]) == values[[4, 0, 0, 2]]).all()
    assert kept.read(["b"]).flags.writeable


def test_rows_of_a_file_that_was_cut_are_no_rows(tmp_path):
    class Numbers(RowFile):
        dtype, width = np.int16, 3

    values = np.arange(60, dtype=np.int16).reshape(20, 3)
    (file := Numbers(tmp_path / "rows")).add(values)
    for rows in ([], [3], [4, 5, 6, 19], [9, 8, 8, 0, 1]):
        assert (file.pick(np.array(rows, np.int64)) == values[rows]).all()
    os.truncate(file.path, 100)
    with pytest.raises(OSError, match="ends before row 17"):
        file.pick(np.array([2, 15, 16, 17]))


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
    with pytest.raises(StoreError, match="temporary files"):
        kept.add(["a"], np.zeros((1, 2), np.uint8))
