"""How well scores rank hits above misses: the area under the ROC curve, for rows of weights."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 100


def measure_auroc(
    scores: NDArray[np.float64], is_hit: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns (R,) areas under the curve: the chance that a hit outranks a miss, a tie being half.

    scikit-learn's `roc_auc_score` of each row of weights, all rows sorted once (Mann & Whitney
    1947 with weights).

    Args:
        scores: (N,).
        is_hit: (N,).
        weights: (R, N), of the images in each row; ones for the area itself.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    hit = is_hit[order]
    found = np.empty(len(weights))
    for first in range(0, len(weights), _BLOCK):
        block = weights[first : first + _BLOCK][:, order]
        hits = np.add.reduceat(block * hit, starts, axis=1)
        misses = np.add.reduceat(block * ~hit, starts, axis=1)
        below = misses.cumsum(1) - misses / 2
        pairs = hits.sum(1) * misses.sum(1)
        found[first : first + _BLOCK] = (hits * below).sum(1) / np.maximum(pairs, 1e-12)
    return found
