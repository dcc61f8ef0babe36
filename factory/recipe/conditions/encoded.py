"""Real images as rows of embeddings: encoded when they are asked for, and kept by content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, SourceError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.data.groups import read_groups
from factory.data.images import SourceImage, read_fitted
from factory.data.rows import ARRAY, Rows
from factory.models.encoders.cache import FeatureCache
from factory.models.session import Session
from factory.recipe.conditions.table_series import ConditionTable, Part, Scanned

CACHE = "FACTORY_CACHE"
"""Variable of the folder where features are kept."""
CLASS = "class_name"


class EncodedRows(Rows):
    """Images of a folder, each a row with its embedding and its class.

    Args:
        path: of the images.
        images: as listed.
        session: with the encoders, which are loaded when the first image is not kept yet.
        encoder: as the recipe names it.
        grid: crops of a side: the image is cut into grid x grid, a token each, row by row.
        fitted: px of the square that each image is brought to first, and how; None: as it is.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[SourceImage],
        session: Session,
        encoder: str,
        grid: int = 1,
        fitted: tuple[int, str] | None = None,
    ) -> None:
        self.path, self._images, self._session = path, images, session
        self._spec, self._grid, self._fitted = encoder, grid, fitted
        has_classes = any(image.class_name for image in images)
        self.header = (ARRAY, *((CLASS,) if has_classes else ()))

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int, columns: Sequence[str]) -> Mapping[str, Any]:
        """Returns what was encoded of an image; raises SourceError where it cannot be read."""
        image = self._images[index]
        found: dict[str, Any] = {CLASS: image.class_name}
        if ARRAY in columns:
            found[ARRAY] = self._encode(image)
        return {name: found[name] for name in columns}

    def place(self, index: int) -> str:
        """Returns the file of an image."""
        return self._images[index].place

    def identify(self, index: int) -> list[Any]:
        """Returns what its condition follows from, without encoding it."""
        image = self._images[index]
        pixels = self._session.images.hash_pixels(image)
        return [pixels, image.class_name, self._spec, self._grid]

    def find_space(self) -> str | None:
        """Returns the encoder that the features stand for, where a flow moves that one's."""
        entry = self._session.catalogs.get_encoder(self._spec)
        return None if entry is None else entry.space

    def find_uncut(self) -> Iterator[str]:
        """Yields, for each size of image that cannot be cut, why not; names its first image.

        Raises:
            SourceError: an image that cannot be read.
        """
        sizes: dict[tuple[int, int], str] = {}
        for image in self._images if self._grid > 1 else ():
            sizes.setdefault(self._session.images.read_size(image), image.place)
        for size, place in sizes.items():
            fault = _find_uncut(size, self._grid)
            if fault is not None:
                yield f"{place}: {fault}"

    @cached_property
    def groups(self) -> tuple[str | None, ...]:
        """The hash of each image's patient or slide; raises SourceError as `read_groups`."""
        return read_groups(self._images)

    @cached_property
    def _encoder(self) -> Any:
        return self._session.encoders.load(self._spec, self._session.base)

    @cached_property
    def _cache(self) -> FeatureCache:
        place = os.environ.get(CACHE) or str(Path("~/.cache/factory").expanduser())
        return FeatureCache(Path(place) / "embeddings", self._encoder)

    def _read(self, image: SourceImage) -> NDArray[np.uint8]:
        if self._fitted is None:
            return image.read_pixels()
        size, fit = self._fitted
        return read_fitted(image, size, size, fit)

    def _encode(self, image: SourceImage) -> NDArray[np.float32]:
        """Returns (grid * grid, dim) of an image, from where it is kept if it is."""
        how = [self._grid] if self._fitted is None else [self._grid, *self._fitted]
        name = compute_digest("crops", [self._session.images.hash_pixels(image), *how])
        names = [f"{name}-{number}" for number in range(self._grid**2)]
        kept = self._cache.read(names)
        if kept is not None:
            return kept
        crops = cut_grid(self._read(image), self._grid, image.place)
        try:
            found = np.asarray(self._encoder.encode(crops), np.float32)
        except InputError as error:
            raise SourceError(f"{image.place}: {error}") from error
        if not np.isfinite(found).all():
            raise SourceError(f"{image.place}: encoder {self._spec} gave NaN: take another image")
        self._cache.write(names, found)
        return found


class EncodedTable(ConditionTable):
    """The conditions of encoded images: planned by their pixels, so that a plan encodes none."""

    def __init__(self, rows: EncodedRows, parts: Sequence[Part]) -> None:
        super().__init__(rows, parts)
        self._images = rows

    def find_group(self, index: int, row: Mapping[str, Any]) -> str | None:
        """Returns the hash of the patient or slide of an image."""
        return self._images.groups[index]

    @property
    def scanned(self) -> Scanned:
        """A key for every image, and the classes; raises SourceError for one not readable."""
        if self._scanned is None:
            found = [self._images.identify(index) for index in range(len(self))]
            keys = tuple(compute_digest("encoded", each)[:16] for each in found)
            names = dict.fromkeys(each[1] for each in found if each[1] is not None)
            self._scanned = keys, tuple(names)
        return self._scanned


def cut_grid(pixels: NDArray[np.uint8], grid: int, place: str) -> NDArray[np.uint8]:
    """Returns (grid * grid, h, w, 3): the crops of an (H, W, 3) image, row by row.

    Raises:
        SourceError: the sides are no multiples of `grid`.
    """
    height, width = pixels.shape[:2]
    fault = _find_uncut((width, height), grid)
    if fault is not None:
        raise SourceError(f"{place}: {fault}")
    size = height // grid, width // grid
    rows = pixels.reshape(grid, size[0], grid, size[1], 3).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(-1, *size, 3))


def _find_uncut(size: tuple[int, int], grid: int) -> str | None:
    """Says why an image of (width, height) px cannot be cut into grid x grid crops."""
    if not any(side % grid for side in size):
        return None
    return (
        f"{size[0]} x {size[1]} px cannot be cut into {grid} x {grid} crops: make its sides "
        f"multiples of {grid}"
    )
