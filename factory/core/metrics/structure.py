"""How much of one image's structure another has: stain planes and structural similarity."""

import numpy as np
from numpy.typing import NDArray

from factory.core.metrics.similarity import measure_ssim
from factory.core.stains import find_tissue, split_stains

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def correlate_haematoxylin(
    images: NDArray[np.uint8], others: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Returns (N,) Pearson correlations of the haematoxylin planes of image pairs, in [-1, 1].

    The planes are those of a colour deconvolution (Ruifrok & Johnston 2001; `split_stains`). NaN
    where one is the same everywhere.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        others: of the same shape.
    """
    one, other = (split_stains(each)[0].reshape(len(each), -1) for each in (images, others))
    return _correlate(
        *(each - each.mean(1, keepdims=True, dtype=np.float64) for each in (one, other))
    )


def correlate_in_tissue(
    images: NDArray[np.uint8], others: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Returns (N,) the same over the tissue of `images` alone: glass is no part of it."""
    tissue = find_tissue(images).reshape(len(images), -1)
    count = np.maximum(tissue.sum(1, keepdims=True), 1)
    planes = (split_stains(each)[0].reshape(len(each), -1) for each in (images, others))
    return _correlate(
        *((each - (each * tissue).sum(1, keepdims=True) / count) * tissue for each in planes)
    )


def _correlate(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the correlations of (N, P) values whose means are 0."""
    size = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    product = (one * other).sum(1)
    return np.where(size > 1e-9, product / np.maximum(size, 1e-9), np.nan)


def compare_structure(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns (N,) structural similarities of the grey values of image pairs, in [-1, 1].

    As `measure_ssim`.

    Args:
        images: (N, H, W, 3) uint8 RGB, 11 px a side or more.
        others: of the same shape.
    """
    pairs = zip(images @ _LUMA, others @ _LUMA, strict=True)
    return np.array([measure_ssim(one, other, 255.0) for one, other in pairs])
