"""Features of images of any sizes: those of one size go through an encoder together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from factory.models.encoders import Encoder


def encode_images(encoder: "Encoder", images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Returns (N, D) float32 features of N images (H, W, 3) uint8 RGB, N at least 1."""
    rows: list[NDArray[np.float32] | None] = [None] * len(images)
    for shape in dict.fromkeys(image.shape for image in images):
        same = [row for row, image in enumerate(images) if image.shape == shape]
        found = encoder.encode(np.stack([images[row] for row in same]))
        for row, values in zip(same, found, strict=True):
            rows[row] = values
    return np.stack([row for row in rows if row is not None])
