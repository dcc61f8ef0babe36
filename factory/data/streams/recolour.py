"""The stream `stain`: the look that an image is given once it was made, nuclei where they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from factory.core.errors import DamageError
from factory.core.stain_transfer import RESTAINED, StainLook, restain
from factory.data.images import SourceImage
from factory.data.streams.base import Stream
from factory.data.streams.stain import Stain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Recolour(Stream):
    """A stain that the image which was made is recoloured to; no model is told of it.

    `own` is the look that images are taken to have before, so that those of one slide keep what
    they differ in; None: each has its own, and ends with that of the stain.
    """

    name = "stain"
    is_shown = False
    stain: Stain
    own: StainLook | None = None

    def identity(self) -> dict[str, Any]:
        """Returns the numbers of the look, and of that before where it is told; the version."""
        told = {**self.stain.look.describe(), "restained": RESTAINED}
        return told if self.own is None else {**told, "own": self.own.describe()}

    def finish(self, pixels: "NDArray[np.uint8]") -> "tuple[NDArray[np.uint8], dict[str, Any]]":
        """Recolours the tissue (`restain`), where it, glass and haematoxylin are."""
        return restain(pixels, self.stain.look, self.own), {}

    @classmethod
    def restore(
        cls, identity: Any, images: Mapping[str, SourceImage], row: Mapping[str, Any]
    ) -> Self:
        """Returns the stain of a row, by its numbers.

        Raises:
            DamageError: another version of `restain` made it.
        """
        version = identity.get("restained", 1)
        if version != RESTAINED:
            raise DamageError(
                f"it was recoloured as version {version} of factory's stain transfer did; this "
                f"factory has version {RESTAINED} alone"
            )
        own = identity.get("own")
        before = None if own is None else StainLook(tuple(own["mean"]), tuple(own["spread"]))
        return cls(Stain.restore(identity), before)

    def record(self) -> dict[str, Any]:
        """Returns hashes of the real images that tell the stain, and of their patients."""
        return self.stain.record()

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of the patients or slides of the images that tell the stain."""
        return self.stain.group_sha256s
