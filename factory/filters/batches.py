"""Images of any sizes: those of one size are judged together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from factory.core.late import NDArray, np

if TYPE_CHECKING:
    from factory.models.encoders import Encoder

Images: TypeAlias = "Sequence[NDArray[np.uint8]] | NDArray[np.uint8]"
"""Each (H, W, 3) uint8 RGB."""
Size = tuple[int, int]
"""Height and width, px."""


def group_by_size(images: Iterable[NDArray[np.uint8]]) -> Mapping[Size, list[int]]:
    """Returns size -> rows of the images (H, W, 3) that have it, sizes as they come."""
    rows: dict[Size, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        rows[image.shape[:2]].append(row)
    return rows


def encode_images(encoder: Encoder, images: Images) -> NDArray[np.float32]:
    """Returns (N, D) float32 features of N images (H, W, 3) uint8 RGB, N at least 1."""
    groups = list(group_by_size(images).values())
    found = [encoder.encode(np.stack([images[row] for row in rows])) for rows in groups]
    return np.concatenate(found)[np.argsort(np.concatenate(groups))]
