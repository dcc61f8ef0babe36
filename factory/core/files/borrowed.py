"""Files that workers on other machines read in part: where they lie, or copied there and back."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from factory.core.files.store import FileStore

_BLOCK = 1 << 20


def lend(paths: Iterable[Path], url: str) -> None:
    """Copies files into a store, where `borrow` finds them.

    Raises:
        StoreError: they cannot be written.
    """
    store = FileStore(url)
    for path in paths:
        with path.open("rb") as source, store.open(path.name, "wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)


@contextmanager
def borrow(url: str, names: Sequence[str]) -> Iterator[Path]:
    """Gives a local folder of files meanwhile: their own where they lie on a disk, else a copy.

    Raises:
        StoreError: they cannot be read.
    """
    store = FileStore(url)
    if store.is_local:
        yield Path(store.root)
        return
    with tempfile.TemporaryDirectory(prefix="factory-borrowed-") as below:
        for name in names:
            path = Path(below) / name
            with store.open(name, "rb", _BLOCK) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK)
        yield Path(below)
