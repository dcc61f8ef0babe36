"""Reads real images for all who work on a recipe: what was found of a file is kept while it stays.

A worker is sent what its driver found, so that no image is read again for its hash.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, hash_pixels, read_size
from factory.data.images.image import SourceImage
from factory.data.images.layout import find_files

MOST_BYTES = 64 * 2**20
"""Of encoded images that are kept: a small set is read once for its sizes, hashes and shots."""
MOST_SENT = 100_000
"""Images of which a worker is told; of more it is told nothing, and reads them itself."""

Stamp = tuple[int, int]
"""Time (ns) and size of a file: another file of the same name is read anew."""
Place = tuple[Path, int | None, tuple[int, int] | None]
"""File, and row or bytes in it."""


class ImageReader:
    """Lists, sizes and hashes of real images, each read once."""

    def __init__(self) -> None:
        self._lists: dict[str, tuple[tuple[Stamp, ...], tuple[SourceImage, ...]]] = {}
        self._hashes: dict[tuple[str, Place], tuple[Stamp, str]] = {}
        self._kept: OrderedDict[Place, tuple[Stamp, bytes]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def list(self, root: Path, **columns: Any) -> tuple[SourceImage, ...]:
        """Returns what `list_images` does; listed again where a file is new, gone or changed.

        Raises:
            SourceError: as `list_images`.
        """
        from factory.data.images import list_images

        found = find_files(root)
        stamps = tuple(_take_stamp(path) for path in (*found.paths, *found.metadata))
        key = repr((root, sorted(columns.items()), found.paths, found.metadata))
        known = self._lists.get(key)
        if known is None or known[0] != stamps:
            known = self._lists[key] = stamps, list_images(root, **columns, found=found)
        return known[1]

    def read_bytes(self, image: SourceImage) -> bytes:
        """Returns the encoded bytes as stored.

        Raises:
            SourceError: they cannot be read.
        """
        place, stamp = _name_place(image), _take_stamp(image.path)
        with self._lock:
            known = self._kept.get(place)
        if known is not None and known[0] == stamp:
            return known[1]
        data = image.read_bytes()
        self._hashes["bytes", place] = stamp, hash_bytes(data)
        with self._lock:
            self._size += len(data) - len(self._kept.pop(place, (stamp, b""))[1])
            self._kept[place] = stamp, data
            while self._size > MOST_BYTES:
                self._size -= len(self._kept.popitem(last=False)[1][1])
        return data

    def read_size(self, image: SourceImage) -> tuple[int, int]:
        """Returns width and height, px; raises as `SourceImage.read_size`."""
        return read_size(self.read_bytes(image), image.place)

    def hash_bytes(self, image: SourceImage) -> str:
        """Returns the sha256 of its encoded bytes; raises as `read_bytes`."""
        known = self._find_hash("bytes", image)
        if known is None:
            self.read_bytes(image)
            known = self._hashes["bytes", _name_place(image)][1]
        return known

    def hash_pixels(self, image: SourceImage) -> str:
        """Returns the hash of its pixels, the same for another file of the same image.

        Raises:
            SourceError: it cannot be decoded.
        """
        known = self._find_hash("pixels", image)
        if known is None:
            stamp = _take_stamp(image.path)
            known = hash_pixels(decode_image(self.read_bytes(image), image.place))
            self._hashes["pixels", _name_place(image)] = stamp, known
        return known

    def _find_hash(self, kind: str, image: SourceImage) -> str | None:
        stamp, known = self._hashes.get((kind, _name_place(image)), (None, None))
        return known if stamp == _take_stamp(image.path) else None

    def __getstate__(self) -> tuple[Any, ...]:
        is_small = len(self._hashes) <= 2 * MOST_SENT
        listed = sum(len(images) for _, images in self._lists.values())
        return self._lists if listed <= MOST_SENT else {}, self._hashes if is_small else {}

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__()  # type: ignore[misc]
        self._lists, self._hashes = state


def _name_place(image: SourceImage) -> Place:
    return image.path, image.row, image.span


def _take_stamp(path: Path) -> Stamp:
    try:
        state = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    return state.st_mtime_ns, state.st_size
