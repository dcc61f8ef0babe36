"""Arrays by key in a temporary file, of one shape and type: memory holds keys and places."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.core.files.rows import RowFile
from factory.core.files.temporary import make_temporary
from factory.core.late import NDArray, np

KeyT = TypeVar("KeyT", bound=Hashable)


class KeptRows(Generic[KeyT]):
    """Arrays that are computed once and asked for again; the file goes with this object.

    Args:
        dtype: of the numbers.

    Raises:
        StoreError: the temporary folder cannot be written.
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype = dtype
        self._places: dict[KeyT, int] = {}
        self._shape: tuple[int, ...] = ()
        self._folder = make_temporary("kept")
        self._file: _Rows | None = None

    def list_lacking(self, keys: Iterable[KeyT]) -> list[KeyT]:
        """Returns the keys without an array, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def add(self, keys: Sequence[KeyT], values: NDArray[Any]) -> None:
        """Keeps (N, ...) arrays under keys that are new.

        Raises:
            StoreError: the temporary folder has no room.
        """
        if self._file is None:
            self._shape = values.shape[1:]
            path = Path(self._folder.name) / "rows"
            self._file = _Rows(path, self._dtype, int(np.prod(self._shape)))
        first = self._file.count
        self._file.add(values)
        self._places.update((key, first + number) for number, key in enumerate(keys))

    def read(self, keys: Sequence[KeyT]) -> NDArray[Any]:
        """Returns the (N, ...) arrays of keys, at least one, that are there.

        Raises:
            StoreError: the temporary file cannot be read.
        """
        places = np.array([self._places[key] for key in keys], np.int64)
        assert self._file is not None
        return self._file.pick(places).reshape(-1, *self._shape)


class _Rows(RowFile):
    def __init__(self, path: Path, dtype: type[np.generic], width: int) -> None:
        super().__init__(path)
        self.dtype, self.width = dtype, width
