"""Objects on disk come back in order, in several readings at once too, and go with their spool."""

import contextlib
import errno
import os
import tempfile

import pytest

from factory.core.errors import StoreError
from factory.core.files.spool import Spool


def test_what_was_put_in_comes_back_again_and_again():
    items = [(number, "ä\ud800\n" * (number % 7), None) for number in range(500)]
    spool = Spool(list, tuple)
    spool.extend(items[:300])
    spool.extend(iter(items[300:]))
    assert [*spool] == [*spool] == items
    assert [*zip(spool, spool, strict=True)] == [*zip(items, items, strict=True)]


def test_it_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(list, tuple)
    spool.extend([(1,)])
    assert not [*tmp_path.iterdir()]  # not even what a kill would leave: names of patients
    assert [*spool] == [(1,)]


@pytest.mark.parametrize("count", [1, 500])
def test_a_full_disk_is_told_in_words(count):
    spool = Spool(list, tuple)
    spool._file = open("/dev/full", "r+b", buffering=1 << 16)  # noqa: SIM115, PTH123
    with pytest.raises(StoreError, match=r"TMPDIR.*No space left.*free space"):
        spool.extend([("text" * 50,)] * count)
    with contextlib.suppress(OSError):
        spool._file.close()


def test_no_place_is_told_in_words(monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StoreError, match=r"TMPDIR.*make it writable"):
        Spool(list, tuple)


def test_the_file_is_closed_with_it():
    spool = Spool(list, tuple)
    file = spool._file
    del spool
    assert file.closed
