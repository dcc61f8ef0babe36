"""Distances between two sets of features: Fréchet distance and kernel distance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]


def compute_fd(first: Features, second: Features) -> float:
    """Returns the Fréchet distance of the two sets' Gaussians (Heusel et al. 2017, equation 6).

    It is biased upwards, more so with fewer images, and meaningless with fewer images than
    dimensions: compare only values of equal N, and state N beside them.

    Args:
        first: (N, D).
        second: (M, D).
    """
    from scipy import linalg

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    apart = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    spread_a, spread_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the root of the product is the sum of the roots of its eigenvalues.
    roots = np.sqrt(np.clip(linalg.eigvals(spread_a @ spread_b).real, 0, None))
    return max(0.0, apart + float(np.trace(spread_a) + np.trace(spread_b) - 2 * roots.sum()))


def compute_kid(first: Features, second: Features) -> float:
    """Returns the unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018).

    Equation 4 of arXiv 1801.01401, on all images at once; it may fall below 0.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)

    def kernel(x: Features, y: Features) -> Features:
        return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3)

    def inner(x: Features) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return inner(a) + inner(b) - 2 * float(kernel(a, b).mean())
