"""How much of one image's structure another has: stain planes and structural similarity."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from factory.core.stains import split_stains

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SIGMA, _RADIUS = 1.5, 5  # Wang et al. 2004: 11 x 11 windows
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


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
    one, other = (each - each.mean(1, keepdims=True, dtype=np.float64) for each in (one, other))
    size = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    product = (one * other).sum(1)
    return np.where(size > 1e-9, product / np.maximum(size, 1e-9), np.nan)


def compare_structure(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns (N,) structural similarities of the grey values of image pairs, in [-1, 1].

    SSIM of Wang et al. 2004 (IEEE TIP 13:600): Gaussian windows of 11 x 11 px and deviation 1.5,
    K1 = 0.01, K2 = 0.03; the mean over all windows inside the images.

    Args:
        images: (N, H, W, 3) uint8 RGB, 11 px a side or more.
        others: of the same shape.
    """
    x, y = (each.astype(np.float64) @ _LUMA for each in (images, others))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    levels = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    found = levels * (2 * covariance + _C2) / (var_x + var_y + _C2)
    inner = slice(_RADIUS, -_RADIUS)
    return np.asarray(found[:, inner, inner].mean((1, 2)))


def _blur(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(planes, _SIGMA, radius=_RADIUS, axes=(1, 2)))
