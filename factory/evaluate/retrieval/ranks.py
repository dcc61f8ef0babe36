"""Recall at k for queries with several right answers, ties counted by chance, and chance itself."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from factory.evaluate.retrieval.settings import KS

DECIMALS = 6
"""Cosines are rounded before they are compared: last bits never decide."""

_BLOCK = 512
"""Queries compared at a time."""


def score_queries(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    right: Sequence[NDArray[np.int64]],
    ks: Sequence[int] = KS,
) -> NDArray[np.float64]:
    """Returns how likely each query has a right answer among its k best, for each k.

    The k best are the most similar by cosine. Entries that are equally similar come in random
    order, of which the expectation is taken: a model that finds all alike scores chance, not 1.

    Args:
        queries: (Q, D) unit vectors.
        gallery: (G, D) unit vectors.
        right: for each query the rows of the gallery that answer it, at least one.
        ks: how many are looked at.

    Returns:
        (Q, len(ks)) in [0, 1]; 0 or 1 without ties.
    """
    found = []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK].astype(np.float64)
        similarity = np.round(block @ gallery.astype(np.float64).T, DECIMALS)
        is_right = np.zeros(similarity.shape, bool)
        for row, answers in enumerate(right[start : start + _BLOCK]):
            is_right[row, answers] = True
        best = np.where(is_right, similarity, -np.inf).max(axis=1, keepdims=True)
        better = (similarity > best).sum(axis=1)
        level = similarity == best
        own = (level & is_right).sum(axis=1)
        found.append(_expect_hits(better, own, level.sum(axis=1) - own, ks))
    return np.concatenate(found)


def find_chance(
    right: Sequence[NDArray[np.int64]], size: int, ks: Sequence[int] = KS
) -> NDArray[np.float64]:
    """Returns (len(ks),): the recall of a random order of `size` entries, mean over the queries."""
    own = np.array([len(answers) for answers in right])
    found = _expect_hits(np.zeros_like(own), own, size - own, ks)
    return np.asarray(found.mean(axis=0))


def _expect_hits(
    better: NDArray[np.int64], own: NDArray[np.int64], others: NDArray[np.int64], ks: Sequence[int]
) -> NDArray[np.float64]:
    """Returns (Q, K): chance of one of `own` among the first k.

    `better` entries come first, then `own` and `others` in random order. The miss is
    hypergeometric: C(others, m) / C(own + others, m) with m = k - better places left.
    """
    places = np.asarray(ks)[None, :] - better[:, None]
    draws = np.clip(places, 0, (own + others)[:, None])
    left = np.maximum(others[:, None] - draws, 0)
    total = (own + others)[:, None]
    log_miss = (
        gammaln(others[:, None] + 1) - gammaln(left + 1)
        - gammaln(total + 1) + gammaln(total - draws + 1)
    )  # fmt: skip
    miss = np.where(draws > others[:, None], 0.0, np.exp(log_miss))
    return np.asarray(np.where(draws == 0, 0.0, 1.0 - miss))
