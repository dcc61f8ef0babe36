"""The stream `domain`: real images whose look an image is to have, by what a model sees in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from factory.core.errors import DamageError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.data.images import SourceImage, fit_source
from factory.data.provenance import Provenance
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.source import KeptImage
from factory.data.varied import Varied


@dataclass(frozen=True, slots=True)
class Domain(Stream):
    """Real images of a domain, sorted by the hashes of their bytes; a model takes their mean.

    `group_sha256s` are the hashes of their patients or slides, as far as those are known, sorted.
    """

    name = "domain"
    is_real = True
    images: tuple[SourceImage | KeptImage, ...]
    sha256s: tuple[str, ...]
    fit: str = "crop"
    group_sha256s: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Returns the hashes of their bytes."""
        return {"sha256": list(self.sha256s), "fit": self.fit}

    @property
    def digest(self) -> str:
        """Names them all."""
        return compute_digest("domain", self.identity())

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns (N, height, width, 3) uint8 RGB.

        Raises:
            SourceError: one cannot be read, or is too small.
        """
        found = ((each.read_pixels(), each.place) for each in self.images)
        return np.stack([fit_source(one, width, height, self.fit, at) for one, at in found])

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the domain of a row.

        Raises:
            DamageError: a real image that is not here.
        """
        hashes = tuple(identity["sha256"])
        missing = [each for each in hashes if each not in images]
        if missing:
            raise DamageError(f"domain: the real image with sha256 {missing[0]} is not here")
        return cls(tuple(images[each] for each in hashes), hashes, identity["fit"])

    def record(self) -> dict[str, Any]:
        """Returns the hashes of the patients or slides, where any are known."""
        if not self.group_sha256s:
            return {}
        return {"domain_group_sha256": list(self.group_sha256s)}

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of the patients or slides."""
        return self.group_sha256s

    @classmethod
    def list_sources(cls, identity: Any, record: Provenance) -> tuple[Varied, ...]:
        """Returns the real images."""
        return tuple(Varied(sha256) for sha256 in identity["sha256"])
