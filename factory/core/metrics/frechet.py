"""The Fréchet distance of two sets of features."""

from __future__ import annotations

from typing import Any, TypeAlias

from factory.core.late import NDArray, np

Features: TypeAlias = "NDArray[np.floating[Any]]"


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
    # The product has the eigenvalues of root(A) B root(A), which is symmetric: exact, and faster.
    values, vectors = linalg.eigh(spread_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    roots = np.sqrt(np.clip(linalg.eigvalsh(root @ spread_b @ root), 0, None))
    return max(0.0, apart + float(np.trace(spread_a) + np.trace(spread_b) - 2 * roots.sum()))
