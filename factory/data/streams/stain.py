"""`Stain`: the stain of unlabelled images, which a real image is given before it is varied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from factory.core.stain_transfer import StainLook


@dataclass(frozen=True, slots=True)
class Stain:
    """A look, known by its numbers; whose it is, is a note and no part of its identity.

    `pixels_sha256s` are the hashes of the pixels of the images that tell it, `group_sha256s` those
    of their patients or slides, as far as known, sorted.
    """

    look: StainLook
    pixels_sha256s: tuple[str, ...] = field(default=(), compare=False)
    group_sha256s: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def restore(cls, told: Mapping[str, Any]) -> Self:
        """Returns the stain that a row recorded by its numbers."""
        return cls(StainLook(tuple(told["mean"]), tuple(told["spread"])))

    def record(self) -> dict[str, Any]:
        """Returns what the provenance of a row holds of it."""
        if not self.pixels_sha256s:
            return {}
        groups = {"stain_group_sha256": list(self.group_sha256s)} if self.group_sha256s else {}
        return {"stain_pixels_sha256": list(self.pixels_sha256s), **groups}
