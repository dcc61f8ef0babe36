"""Objects on disk come back in order, in several readings at once too, and go with their spool."""

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


def test_it_leaves_nothing():
    spool = Spool(list, tuple)
    folder = spool._path.parent
    assert folder.exists() and [*spool] == []
    del spool
    assert not folder.exists()


def test_a_full_disk_is_told_in_words(monkeypatch):
    spool = Spool(list, tuple)

    class Full:
        def write(self, line):
            raise OSError(28, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(type(spool._path), "open", lambda *names, **options: Full())
    with pytest.raises(StoreError, match="No space left"):
        spool.extend([(1,)])
