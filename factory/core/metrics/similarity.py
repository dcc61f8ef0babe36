"""Likeness of two images of one place: PSNR and SSIM, for planes of any range."""

from __future__ import annotations

import math

from factory.core.late import NDArray, np

SIGMA = 1.5
"""px, of the Gaussian window of SSIM; cut off at 3.5 sigma, 11 x 11 px (Wang et al. 2004)."""


def measure_psnr(one: NDArray[np.generic], other: NDArray[np.generic], span: float) -> float:
    """Returns the peak signal-to-noise ratio of two arrays of one shape, dB; inf where equal.

    10 log10(span^2 / MSE) over all values (ITU-T J.340).

    Args:
        one: of any shape.
        other: of the same.
        span: of the values: 255 for 8 bits; else largest less smallest that may be.
    """
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(span**2 / error) if span else -math.inf


def measure_ssim(one: NDArray[np.generic], other: NDArray[np.generic], span: float) -> float:
    """Returns the structural similarity of two (H, W) planes, in [-1, 1]; 1 where equal.

    Wang et al. 2004 (IEEE TIP 13:600), eq. 13, with its Gaussian window of 11 x 11 px, sigma 1.5,
    K1 = 0.01 and K2 = 0.03; the mean over all windows that lie in the planes.

    Args:
        one: (H, W), at least 11 px a side.
        other: (H, W).
        span: of the values, above 0.
    """
    from scipy.ndimage import gaussian_filter

    radius = int(3.5 * SIGMA + 0.5)

    def smooth(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        found = gaussian_filter(plane, SIGMA, radius=radius, mode="reflect")
        return np.asarray(found[radius:-radius, radius:-radius])

    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((above / below).mean())
