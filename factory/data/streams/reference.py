"""The stream `reference`: a real image to vary, and how strongly."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from factory.core.images import hash_pixels
from factory.core.late import NDArray, np
from factory.core.stain_transfer import give_look
from factory.data.images import SourceImage, read_fitted
from factory.data.provenance import Provenance
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.prototype import ATTRIBUTE, Prototype
from factory.data.streams.stain import Stain
from factory.data.varied import Labelled, Varied, list_groups, record_shots


@dataclass(frozen=True, slots=True)
class Reference(Stream):
    """A real image to vary.

    `sha256` is the hash of its encoded bytes, `group_sha256` the hash of its patient or slide,
    `strength` in (0, 1] the share of the diffusion path that is run again, `stain` what it is given
    before, and `prototype` what it stands for, if it was chosen for that. `shots` are the labelled
    images that its class comes from, where it has none of its own.
    """

    name = "reference"
    is_real = True
    image: SourceImage
    sha256: str
    strength: float
    fit: str = "crop"
    group_sha256: str | None = None
    prototype: Prototype | None = field(default=None, compare=False)
    stain: Stain | None = None
    shots: tuple[Labelled, ...] = field(default=(), compare=False)

    def identity(self) -> dict[str, Any]:
        """Returns the hash of its bytes, and how it is varied."""
        told = {"sha256": self.sha256, "strength": self.strength, "fit": self.fit}
        return told if self.stain is None else {**told, "stain": self.stain.look.describe()}

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns its pixels, (height, width, 3) uint8 RGB.

        Raises:
            SourceError: it cannot be read, or is too small.
        """
        pixels = read_fitted(self.image, width, height, self.fit)
        return pixels if self.stain is None else give_look(pixels, self.stain.look)

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the reference of a row."""
        told, stain = dict(identity), identity.get("stain")
        told["stain"] = None if stain is None else Stain.restore(stain)
        return cls(images[identity["sha256"]], **told)

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
            **({} if self.stain is None else self.stain.record()),
            **record_shots(self.shots),
        }

    @classmethod
    def find_source(cls, identity: Any, record: Provenance) -> Varied:
        """Returns what was varied."""
        return Varied(str(identity["sha256"]), record.reference_pixels_sha256)

    def list_attributes(self) -> Mapping[str, str]:
        """Returns the id of the prototype that it is."""
        return {} if self.prototype is None else {ATTRIBUTE: self.prototype.id}

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of its patient or slide, and of those of its stain and its class."""
        own = () if self.group_sha256 is None else (self.group_sha256,)
        stain = () if self.stain is None else self.stain.group_sha256s
        return tuple(dict.fromkeys((*own, *stain, *list_groups(self.shots))))


@functools.lru_cache(maxsize=4096)
def hash_source_pixels(image: SourceImage, sha256: str) -> str:
    """Decodes an image once for all that is made of it; `sha256` tells another file in its place.

    Raises:
        SourceError: it cannot be decoded.
    """
    return hash_pixels(image.read_pixels())
