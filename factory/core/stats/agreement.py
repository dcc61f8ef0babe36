"""Agreement of raters beyond chance: Cohen's kappa of two, Fleiss' of any number."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import LEVEL, Interval, find_quantile


def compute_cohen_kappa(table: NDArray[np.int64]) -> Interval | None:
    """Returns Cohen's kappa (1960) with the large-sample interval of Fleiss, Cohen & Everitt 1969.

    Psychological Bulletin 72:323, equation 13. None where chance alone agrees always: all answers
    of both are one category.

    Args:
        table: (K, K) cases by the answer of one rater (rows) and of the other.
    """
    shares = np.asarray(table, np.float64) / np.sum(table)
    rows, columns = shares.sum(1), shares.sum(0)
    chance = float(rows @ columns)
    if chance >= 1.0 - 1e-12:
        return None
    kappa = (float(np.trace(shares)) - chance) / (1 - chance)
    same = np.diag(shares) * (1 - (rows + columns) * (1 - kappa)) ** 2
    other = shares * (columns[:, None] + rows[None, :]) ** 2
    np.fill_diagonal(other, 0.0)
    spread = same.sum() + (1 - kappa) ** 2 * other.sum() - (kappa - chance * (1 - kappa)) ** 2
    error = math.sqrt(max(float(spread), 0.0) / float(np.sum(table))) / (1 - chance)
    return _surround(kappa, find_quantile(LEVEL) * error)


def compute_fleiss_kappa(counts: NDArray[np.int64]) -> Interval | None:
    """Returns Fleiss' kappa (1971, Psychological Bulletin 76:378) with Gwet's interval over cases.

    Gwet 2014, Handbook of Inter-Rater Reliability, 4th ed., section 5.5: raters are as they are,
    cases are drawn; numbers of raters may differ between cases. None where all answers are one
    category, or fewer than two cases have two answers.

    Args:
        counts: (N, K) raters who gave case n the category k; cases with fewer than two are left
            out.
    """
    given = np.asarray(counts, np.float64)
    given = given[given.sum(1) >= 2]
    if len(given) < 2:
        return None
    raters = given.sum(1)
    agreed = (given * (given - 1)).sum(1) / (raters * (raters - 1))
    shares = (given / raters[:, None]).mean(0)
    chance = float(shares @ shares)
    if chance >= 1.0 - 1e-12:
        return None
    kappa = (float(agreed.mean()) - chance) / (1 - chance)
    by_chance = given @ shares / raters
    of_case = (agreed - chance) / (1 - chance)
    of_case -= 2 * (1 - kappa) * (by_chance - chance) / (1 - chance)
    error = math.sqrt(float(np.square(of_case - kappa).sum()) / (len(given) * (len(given) - 1)))
    return _surround(kappa, find_quantile(LEVEL, len(given) - 1) * error)


def count_answers(answers: Sequence[Mapping[str, str]]) -> NDArray[np.int64]:
    """Returns (N, K): how many raters gave each case each category, both sorted.

    Args:
        answers: of each rater, case -> category.
    """
    cases = sorted({case for each in answers for case in each})
    names = sorted({name for each in answers for name in each.values()})
    counts = np.zeros((len(cases), len(names)), np.int64)
    place = {case: row for row, case in enumerate(cases)}
    for each in answers:
        for case, name in each.items():
            counts[place[case], names.index(name)] += 1
    return counts


def cross_answers(first: Mapping[str, str], second: Mapping[str, str]) -> NDArray[np.int64]:
    """Returns (K, K) cases that two raters answered both, by the answer of each."""
    common = first.keys() & second.keys()
    names = sorted({each[case] for case in common for each in (first, second)})
    table = np.zeros((len(names), len(names)), np.int64)
    for case in common:
        table[names.index(first[case]), names.index(second[case])] += 1
    return table


def _surround(kappa: float, half: float) -> Interval:
    return Interval(kappa, max(-1.0, kappa - half), min(1.0, kappa + half))
