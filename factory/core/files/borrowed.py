"""Files that workers on other machines read in part: where they lie, or copied there and back."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from factory.core.files.edge import Edge
from factory.core.files.store import FileStore
from factory.core.files.temporary import make_temporary

_BLOCK = 1 << 20


def lend(paths: Iterable[Path], url: str) -> None:
    """Copies files into a store, where `borrow` finds them.

    Raises:
        StoreError: they cannot be written.
    """
    store = FileStore(url)
    for path in paths:
        with (
            Edge(str(path.parent), path.name, is_local=True),
            path.open("rb") as source,
            store.open(path.name, "wb") as target,
        ):
            shutil.copyfileobj(source, target, _BLOCK)


@contextmanager
def borrow(url: str, names: Sequence[str]) -> Iterator[Path]:
    """Gives a local folder of files meanwhile: their own where they lie on a disk, else a copy.

    Raises:
        StoreError: they cannot be read, or the temporary folder has no room.
    """
    store = FileStore(url)
    if store.is_local:
        yield Path(store.root)
        return
    with make_temporary("borrowed") as below:
        for name in names:
            with (
                Edge(below, name, is_local=True),
                store.open(name, "rb", _BLOCK) as source,
                (Path(below) / name).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, _BLOCK)
        yield Path(below)
