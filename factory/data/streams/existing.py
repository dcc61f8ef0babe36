"""The stream `existing`: an image that is there already, to be judged as it is."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Self

from factory.core.hashing import hash_bytes
from factory.core.late import NDArray, np
from factory.data.images import SourceImage
from factory.data.provenance import Provenance
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.varied import Varied


@dataclass(frozen=True)
class Existing(Stream):
    """An image as it is. Whoever asks first for its hash reads it: the worker, not the planner.

    Its identity is recorded as `given`, which it was called: so all ids stay as they were.
    """

    name = "existing"
    recorded = "given"
    is_image = True
    is_real = True
    image: SourceImage
    recorded_sha256: str | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """The sha256 of its bytes.

        Raises:
            SourceError: it cannot be read.
        """
        return self.recorded_sha256 or hash_bytes(self.image.read_bytes())

    def identity(self) -> dict[str, Any]:
        """Returns the hash of its bytes, and its name in the set."""
        return {"sha256": self.sha256, "name": self.image.key}

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns its pixels, (H, W, 3) uint8 RGB, at its own size.

        Raises:
            SourceError: it cannot be read.
        """
        return self.image.read_pixels()

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the image of a row."""
        return cls(images[identity["sha256"]], identity["sha256"])

    @classmethod
    def find_source(cls, identity: Any, record: Provenance) -> Varied:
        """Returns the image itself."""
        return Varied(str(identity["sha256"]), record.pixels_sha256)

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of its patient or slide."""
        return () if self.image.group is None else (hash_bytes(self.image.group.encode()),)
