"""Kernel distances (squared MMD) of two sets of features: KID and CMMD, whole and by subsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from factory.core.late import NDArray, np

Features: TypeAlias = "NDArray[np.floating[Any]]"
Floats: TypeAlias = "NDArray[np.float64]"
Kernel = Callable[[Floats, Floats], Floats]
Picks: TypeAlias = "NDArray[np.bool_]"
PairOfPicks: TypeAlias = "tuple[Picks | None, Picks | None]"

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Of Jayasumana et al. 2024 (arXiv 2401.09603) and their reference implementation."""
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Mmd:
    """Squared maximum mean discrepancy of two sets (Gretton et al. 2012, JMLR 13).

    Attributes:
        unbiased: their equation 3 (without the diagonals); may fall below 0.
        biased: their equation 5 (with the diagonals), larger by about (1/N + 1/M) at unit diagonal.
        draws: (R,) the unbiased one of each pair of subsets.
        biased_draws: (R,) the biased one of each.
    """

    unbiased: float
    biased: float
    draws: Floats
    biased_draws: Floats

    def scale(self, factor: float) -> Mmd:
        """Returns all of it times a factor."""
        both = (self.draws * factor, self.biased_draws * factor)
        return Mmd(self.unbiased * factor, self.biased * factor, *both)


def compute_kid(first: Features, second: Features) -> float:
    """Returns the unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018).

    Equation 4 of arXiv 1801.01401, on all images at once; it may fall below 0.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
    """
    return measure_kid(first, second).unbiased


def compute_cmmd(first: Features, second: Features) -> float:
    """Returns 1000 times the biased squared MMD of unit features, Gaussian kernel of sigma 10.

    As in the reference implementation of Jayasumana et al. 2024 (google-research, `cmmd`); theirs
    are the features of CLIP ViT-L/14 at 336 px.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
    """
    return measure_cmmd(first, second).biased


def measure_kid(first: Features, second: Features, picks: PairOfPicks = (None, None)) -> Mmd:
    """Measures KID on all images and on subsets; see `compute_kid`.

    Args:
        first: (N, D).
        second: (M, D).
        picks: (R, N) and (R, M) bool, subsets of at least 2; None: no subsets.
    """

    def kernel(x: Floats, y: Floats) -> Floats:
        inner = x @ y.T / x.shape[1] + 1.0
        return np.asarray(inner * inner * inner)

    return _measure(kernel, first, second, *picks)


def measure_cmmd(first: Features, second: Features, picks: PairOfPicks = (None, None)) -> Mmd:
    """Measures CMMD on all images and on subsets; see `compute_cmmd` and `measure_kid`."""

    def kernel(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.exp((x @ y.T - 1.0) / CMMD_SIGMA**2))  # of unit vectors

    found = _measure(kernel, _normalise(first), _normalise(second), *picks)
    return found.scale(CMMD_SCALE)


def _normalise(features: Features) -> Floats:
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, np.finfo(np.float64).tiny))


def _measure(
    kernel: Kernel,
    first: Features,
    second: Features,
    first_picks: Picks | None,
    second_picks: Picks | None,
) -> Mmd:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    # The first row of each is the whole set; the others are its subsets.
    pick_x, pick_y = _add_all(first_picks, len(x)), _add_all(second_picks, len(y))
    inner_x, diagonal_x = _sum_inner(kernel, x, pick_x)
    inner_y, diagonal_y = _sum_inner(kernel, y, pick_y)
    n, m = pick_x.sum(1), pick_y.sum(1)
    across = 2 * _sum_across(kernel, x, y, pick_x, pick_y) / (n * m)
    unbiased = inner_x / (n * (n - 1)) + inner_y / (m * (m - 1)) - across
    biased = (inner_x + diagonal_x) / n**2 + (inner_y + diagonal_y) / m**2 - across
    return Mmd(float(unbiased[0]), float(biased[0]), unbiased[1:], biased[1:])


def _add_all(picks: Picks | None, count: int) -> Floats:
    everything = np.ones((1, count))
    return everything if picks is None else np.concatenate([everything, picks.astype(np.float64)])


def _sum_inner(kernel: Kernel, x: Floats, picks: Floats) -> tuple[Floats, Floats]:
    """Returns (R,) sums of the kernel over pairs of different images picked, and the diagonals'."""
    total, diagonal = np.zeros(len(picks)), np.zeros(len(picks))
    for start in range(0, len(x), _BLOCK):
        values = kernel(x[start : start + _BLOCK], x)
        rows = np.arange(len(values))
        diagonal += picks[:, start : start + _BLOCK] @ values[rows, start + rows]
        values[rows, start + rows] = 0.0
        total += np.einsum("rb,br->r", picks[:, start : start + _BLOCK], values @ picks.T)
    return total, diagonal


def _sum_across(kernel: Kernel, x: Floats, y: Floats, pick_x: Floats, pick_y: Floats) -> Floats:
    total = np.zeros(len(pick_x))
    for start in range(0, len(x), _BLOCK):
        values = kernel(x[start : start + _BLOCK], y) @ pick_y.T
        total += np.einsum("rb,br->r", pick_x[:, start : start + _BLOCK], values)
    return total
