"""What comes out of a pipeline: bytes of images, the share that was not finite, out of memory."""

import numpy as np
from numpy.typing import NDArray


def quantise(images: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Rounds images to bytes; values that are not finite become 0 and are counted.

    The pipelines clamp infinities of the last layer, so of those only NaN arrives here; an infinity
    before a normalisation layer arrives as NaN.

    Args:
        images: (N, H, W, 3) float in [0, 1], or NaN.

    Returns:
        (N, H, W, 3) uint8 RGB, and (N,) share of each image's values that were not finite.
    """
    finite = np.isfinite(images)
    nonfinite = 1.0 - finite.mean(axis=(1, 2, 3), dtype=np.float64)
    if not finite.all():
        images = np.where(finite, images, 0.0)
    return np.rint(images * 255.0).astype(np.uint8), nonfinite


def lay_on_white(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns (N, H, W, 3) images; of those with a fourth channel, opacity, what white glass shows.

    Args:
        images: (N, H, W, 3 or 4) float in [0, 1], or NaN.
    """
    if images.ndim != 4 or images.shape[-1] != 4:
        return images
    opacity = images[..., 3:]
    return images[..., :3] * opacity + (1.0 - opacity)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether a device or the host ran out of memory."""
    text = str(error).lower()
    known = ("out of memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in known)
    )
