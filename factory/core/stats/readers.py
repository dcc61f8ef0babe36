"""Reader studies: d', the area under the ROC curve, and variance over readers and cases."""

import math

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import LEVEL, Interval, compute_wilson, find_quantile

Floats = NDArray[np.float64]


def compute_d_prime(is_signal: NDArray[np.bool_], says_signal: NDArray[np.bool_]) -> Interval:
    """Returns d' = z(hit rate) - z(false alarm rate) with its 95 % interval.

    Rates are those of the log-linear rule, (x + .5) / (n + 1), which keeps d' finite (Hautus 1995,
    Behavior Research Methods 27:46); the variance is that of Gourevitch & Galanter 1967,
    Psychometrika 32:25.

    Args:
        is_signal: (N,) of each case; both kinds must be there.
        says_signal: (N,) the answer.
    """
    from scipy.special import ndtri

    value, variance = 0.0, 0.0
    for sign, chosen in ((1, is_signal), (-1, ~is_signal)):
        count = int(chosen.sum())
        rate = (float((says_signal & chosen).sum()) + 0.5) / (count + 1)
        z = float(ndtri(rate))
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        value += sign * z
        variance += rate * (1 - rate) / (count * density**2)
    half = find_quantile(LEVEL) * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def compare_primes(
    says_signal: NDArray[np.bool_], is_signal: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Returns d' of readers on the same cases, and their covariance by the jackknife over cases.

    Args:
        says_signal: (R, N) the answers.
        is_signal: (N,); at least two of each kind.

    Returns:
        (R,) and (R, R).
    """
    values = np.array([compute_d_prime(is_signal, row).mean for row in says_signal])
    count = len(is_signal)
    left = np.empty((len(says_signal), count))
    for case in range(count):
        kept = np.arange(count) != case
        left[:, case] = [compute_d_prime(is_signal[kept], row[kept]).mean for row in says_signal]
    return values, np.atleast_2d(np.cov(left, ddof=0)) * (count - 1)


def compare_areas(ratings: Floats, is_signal: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Returns the areas under the ROC curves of readers on the same cases, and their covariance.

    DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837.

    Args:
        ratings: (R, N) the larger, the surer that a case is a signal.
        is_signal: (N,); at least two of each kind.

    Returns:
        (R,) areas and their (R, R) covariance over cases.
    """
    signals, noises = ratings[:, is_signal], ratings[:, ~is_signal]
    above = signals[:, :, None] > noises[:, None, :]
    ties = signals[:, :, None] == noises[:, None, :]
    wins = above + 0.5 * ties
    of_signals, of_noises = wins.mean(2), wins.mean(1)
    covariance = np.atleast_2d(np.cov(of_signals)) / of_signals.shape[1]
    covariance = covariance + np.atleast_2d(np.cov(of_noises)) / of_noises.shape[1]
    return wins.mean((1, 2)), covariance


def combine_readers(values: Floats, covariance: Floats) -> Interval:
    """Returns the mean over readers with a 95 % interval for other readers on other cases.

    Obuchowski & Rockette 1995 (Communications in Statistics 24:285) for one modality, with the
    degrees of freedom of Hillis 2007 (Statistics in Medicine 26:596): the variance is (MS(R) + R
    max(Cov2, 0)) / R. Of one reader the interval is over cases alone.

    Args:
        values: (R,) the figure of each reader, of the same cases.
        covariance: (R, R) of these over cases.
    """
    count, mean = len(values), float(np.mean(values))
    if count == 1:
        half = find_quantile(LEVEL) * math.sqrt(max(float(covariance[0, 0]), 0.0))
        return Interval(mean, mean - half, mean + half)
    between = float(np.var(values, ddof=1))
    shared = float(covariance[~np.eye(count, dtype=bool)].mean())
    whole = between + count * max(shared, 0.0)
    freedom = whole**2 / (between**2 / (count - 1)) if between > 1e-15 else None
    half = find_quantile(LEVEL, freedom) * math.sqrt(whole / count)
    return Interval(mean, mean - half, mean + half)


def combine_shares(hits: Floats) -> Interval:
    """Returns a share over readers and cases, as `combine_readers` does, within 0 and 1.

    Where no answer differs from another there is no spread to measure: then the interval is
    Wilson's, over cases.

    Args:
        hits: (R, N) 0 or 1 of each reader and case.
    """
    readers, cases = hits.shape
    mean = float(hits.mean())
    if cases < 2 or readers == 1 or mean in (0.0, 1.0):
        return compute_wilson(mean, cases)
    found = combine_readers(hits.mean(1), np.atleast_2d(np.cov(hits)) / cases)
    return Interval(mean, max(0.0, found.low), min(1.0, found.high))
