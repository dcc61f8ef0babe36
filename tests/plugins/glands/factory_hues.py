"""`hues`: how much of an image has which hue; `hues:24` counts 24 of them, `hues` twelve."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.errors import InputError
from factory.models.encoders.base import EncoderKind


class HueKind(EncoderKind):
    """Shares of hues, weighted by saturation; nothing is learned."""

    kind = "hues"
    form = "hues:NUMBER"
    is_bare = True

    def load(self, device: str) -> "HueEncoder":
        """Returns the encoder.

        Raises:
            InputError: the number is none.
        """
        if not (self.name or "12").isdecimal():
            raise InputError(f"encoder {self.source!r}: give a number of hues, e.g. hues:24")
        return HueEncoder(int(self.name or 12))


class HueEncoder:
    """Counts `dim` hues."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, weights hash (None: there are none), dim and preprocessing."""
        return {
            "id": f"hues:{self.dim}",
            "revision": "1",
            "weights_sha256": None,
            "dim": self.dim,
            "preprocessing": "none",
        }

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 shares of (N, H, W, 3) uint8 RGB."""
        found = np.zeros((len(images), self.dim), np.float32)
        for row, image in enumerate(images):
            hsv = np.asarray(Image.fromarray(image).convert("HSV"))
            place = hsv[..., 0].ravel().astype(int) * self.dim // 256
            counts = np.bincount(place, hsv[..., 1].ravel(), self.dim)
            found[row] = counts / max(counts.sum(), 1e-6)
        return found
