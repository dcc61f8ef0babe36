"""The stream `reference`: a real image to vary, and how strongly."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from factory.core.images import hash_pixels
from factory.data.images import SourceImage, read_fitted
from factory.data.provenance import Provenance
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.prototype import ATTRIBUTE, Prototype
from factory.data.varied import Varied


@dataclass(frozen=True, slots=True)
class Reference(Stream):
    """A real image to vary.

    `sha256` is the hash of its encoded bytes, `group_sha256` the hash of its patient or slide,
    `strength` in (0, 1] the share of the diffusion path that is run again, and `prototype` what it
    stands for, if it was chosen for that.
    """

    name = "reference"
    is_real = True
    image: SourceImage
    sha256: str
    strength: float
    fit: str = "crop"
    group_sha256: str | None = None
    prototype: Prototype | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """Returns the hash of its bytes, and how it is varied."""
        return {"sha256": self.sha256, "strength": self.strength, "fit": self.fit}

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns its pixels, (height, width, 3) uint8 RGB.

        Raises:
            SourceError: it cannot be read, or is too small.
        """
        return read_fitted(self.image, width, height, self.fit)

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the reference of a row."""
        return cls(images[identity["sha256"]], **identity)

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns the hash of its bytes."""
        return {"reference_sha256": identity["sha256"]}

    def record(self) -> dict[str, Any]:
        """Returns the hashes of its pixels, the same for another file, and patient; its prototype.

        Raises:
            SourceError: it cannot be decoded.
        """
        return {
            "reference_pixels_sha256": hash_source_pixels(self.image, self.sha256),
            "reference_group_sha256": self.group_sha256,
            **({} if self.prototype is None else self.prototype.record()),
        }

    @classmethod
    def find_source(cls, identity: Any, record: Provenance) -> Varied:
        """Returns what was varied."""
        return Varied(str(identity["sha256"]), record.reference_pixels_sha256)

    def list_attributes(self) -> Mapping[str, str]:
        """Returns the id of the prototype that it is."""
        return {} if self.prototype is None else {ATTRIBUTE: self.prototype.id}

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of its patient or slide."""
        return () if self.group_sha256 is None else (self.group_sha256,)


@functools.lru_cache(maxsize=4096)
def hash_source_pixels(image: SourceImage, sha256: str) -> str:
    """Decodes an image once for all that is made of it; `sha256` tells another file in its place.

    Raises:
        SourceError: it cannot be decoded.
    """
    return hash_pixels(image.read_pixels())
