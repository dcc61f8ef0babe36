"""Conformal bounds: how often images of another class pass, from a finite number of real ones."""

from __future__ import annotations

import math

from factory.core.late import NDArray, np


def bound_rates(passed: NDArray[np.int64], count: int, confidence: float) -> NDArray[np.float64]:
    """Returns (N,) upper bounds on the share of a class that lies as far out, from calibration.

    Of `count` exchangeable calibration scores, `passed` are at least as large as the score at hand.
    The bound is Clopper and Pearson's (1934), one-sided. Accepting where it is at most alpha is the
    split-conformal rule whose validity holds given the calibration images, with that confidence
    (Vovk 2012, Conditional validity of inductive conformal predictors, proposition 2): the share of
    future images that pass is at most alpha.

    Args:
        passed: (N,) 0 .. count.
        count: calibration scores.
        confidence: in (0, 1).
    """
    from scipy.special import betaincinv

    if count == 0:
        return np.ones(len(passed))
    inside = np.minimum(passed, count - 1)
    found = betaincinv(inside + 1.0, count - inside, confidence)
    return np.where(passed >= count, 1.0, found)


def count_needed(share: float, confidence: float) -> int:
    """Returns the calibration images below which no score is bounded by `share`."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-share) - 1e-9)


def bound_passed(tried: int, share: float, confidence: float) -> int:
    """Returns how many of `tried` images of the wrong class pass at most, if a `share` of them do.

    It holds for all numbers of tries at once (binomial tails, their levels divided by n (n + 1)),
    as a run tries again until it has its image: when it stops depends on what passed.

    Args:
        tried: images that were judged.
        share: of those that show another class, how many pass at most.
        confidence: in (0, 1).
    """
    from scipy.stats import binom

    if tried == 0:
        return 0
    level = (1.0 - confidence) / (tried * (tried + 1.0))
    return int(binom.isf(level, tried, share))
