"""How near a feature lies to a class of real ones: Mahalanobis and centroid distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from factory.core.late import NDArray, np

Floats: TypeAlias = "NDArray[np.float64]"

MIN_SHRINKAGE = 1e-3
"""Least weight of the identity, so that the covariance can always be inverted."""


class RealClasses:
    """Class means and one shared covariance of real features; every query is computed by itself.

    - Mahalanobis distance as in Lee et al. 2018 (arXiv 1807.03888, eq. 1 and 2): squared, it is
      (x - m_c)' S^-1 (x - m_c), m_c the mean of class c, S the covariance of all features around
      their class means. Not squared here. S is shrunk to (1 - a) S + a tr(S) / D I with a after
      Ledoit & Wolf 2004, at least `MIN_SHRINKAGE`. About sqrt(D) for real images.
    - centroid distance as in HistoGAN's selective augmentation (Xue et al. 2021, Medical Image
      Analysis 67): |x - m_c|, in units of its mean over the real images of class c.

    Args:
        real: (N, D) features.
        labels: (N,) class of each, 0 .. C - 1, each with two features or more.
    """

    def __init__(self, real: Floats, labels: NDArray[np.int64]) -> None:
        from sklearn.covariance import ledoit_wolf, shrunk_covariance

        self.labels, self.counts = labels, np.bincount(labels)
        self.means = np.stack([real[labels == each].mean(axis=0) for each in np.unique(labels)])
        self._residuals = real - self.means[labels]
        lengths = np.linalg.norm(self._residuals, axis=1)
        self.spreads = np.bincount(labels, lengths) / self.counts
        """(C,) mean distance of a class's images to their mean."""
        scatter = self._residuals.T @ self._residuals / len(real)
        wished = ledoit_wolf(self._residuals, assume_centered=True)[1]
        self.shrinkage = max(MIN_SHRINKAGE, float(wished))
        self._scatter = scatter
        self._whiten = _invert_root(shrunk_covariance(scatter, self.shrinkage))
        self._white_means = np.stack([self._whiten @ mean for mean in self.means])

    def score(self, queries: Floats) -> tuple[Floats, Floats]:
        """Returns (M, C) Mahalanobis and centroid distances of (M, D) features to each class."""
        shape = (len(queries), len(self.means))
        mahalanobis, centroid = np.empty(shape), np.empty(shape)
        for row, query in enumerate(queries):
            white = self._whiten @ query
            mahalanobis[row] = np.linalg.norm(white - self._white_means, axis=1)
            centroid[row] = np.linalg.norm(query - self.means, axis=1) / self.spreads
        return mahalanobis, centroid

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """Returns (N,) both distances of each real feature to its class without it.

        Shrinkage weight, its target and the units stay those of the whole set; mean and covariance
        do not. By the formula of Sherman & Morrison, without fitting N times.
        """
        total, (_, dim) = len(self._residuals), self._residuals.shape
        factors = (self.counts / (self.counts - 1.0))[self.labels]
        target = self.shrinkage * np.trace(self._scatter) / dim
        share = (1.0 - self.shrinkage) / (total - 1)
        rest = share * total * self._scatter + target * np.eye(dim)
        white = self._residuals @ _invert_root(rest).T
        squares = np.einsum("nd,nd->n", white, white)
        squares = squares / np.maximum(1.0 - share * factors * squares, 1e-12)
        lengths = np.linalg.norm(self._residuals, axis=1)
        return factors * np.sqrt(squares), factors * lengths / self.spreads[self.labels]


def pick_classes(distances: Floats, asked: Sequence[int | None]) -> Floats:
    """Returns, of (M, C) distances, each row's to the asked class; without one, the smallest."""
    picked = [row.min() if c is None else row[c] for row, c in zip(distances, asked, strict=True)]
    return np.array(picked, np.float64)


def _invert_root(covariance: Floats) -> Floats:
    """Returns W (D, D) with |W x|^2 = x' covariance^-1 x."""
    from scipy.linalg import solve_triangular

    root = np.linalg.cholesky(covariance)
    return np.asarray(solve_triangular(root, np.eye(len(root)), lower=True), np.float64)
