"""Scores of gene sets, sample by sample: ssGSEA, and the mean z-score; whole tables at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

WEIGHT = 0.25
"""Exponent of ranks (Barbie et al. 2009, supplementary methods)."""
STILL = 1e-9
"""A gene of no larger deviation does not vary."""


def mark_members(genes: Sequence[str], sets: Sequence[Sequence[str]]) -> Values:
    """Returns (G, P): 1 where a gene is of a set."""
    place = {gene: number for number, gene in enumerate(genes)}
    marked = np.zeros((len(genes), len(sets)))
    for column, members in enumerate(sets):
        for gene in members:
            if gene in place:
                marked[place[gene], column] = 1.0
    return marked


def score_ssgsea(values: Values, members: Values) -> Values:
    """Returns (S, P) enrichment scores of single samples, not scaled.

    Barbie et al. 2009, Nature 462:108, supplementary methods: genes are ranked by expression, and
    the score is the sum over ranks i of P_hit(i) - P_miss(i), where P_hit weights a gene by its
    rank to the power of 0.25. As a cumulated sum counts a gene once for each place from its own to
    the last, which is its rank r from below,

        ES = sum_hit r^1.25 / sum_hit r^0.25 - sum_miss r / N_miss.

    Ties share their mean rank, so that the order of genes in a file changes nothing (as it does in
    implementations that sort: spots of few reads have thousands of zeros).

    Args:
        values: (S, G) expression.
        members: (G, P) of `mark_members`; no set is empty or holds all genes.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1)
    weights = ranks**WEIGHT
    hits = (weights * ranks) @ members / (weights @ members)
    count = members.sum(axis=0)
    missed = (ranks.sum(axis=1)[:, None] - ranks @ members) / (len(members) - count)
    return np.asarray(hits - missed)


def score_mean_z(values: Values, members: Values, mean: Values, deviation: Values) -> Values:
    """Returns (S, P) means of z-scores over the genes of a set.

    Args:
        values: (S, G) expression.
        members: (G, P).
        mean: (G,) of each gene.
        deviation: (G,) likewise; a gene that does not vary counts as 0.
    """
    varies = deviation > STILL
    z = np.where(varies, (values - mean) / np.where(varies, deviation, 1.0), 0.0)
    return np.asarray(z @ members / members.sum(axis=0))


def score_within(values: Values, members: Values, groups: Sequence[Sequence[int]]) -> Values:
    """Returns (S, P) means of z-scores, each gene scaled by the samples of a sample's own group.

    What differs between sections of a tissue by handling (reads, reagents) goes so, and with it
    what differs by biology: scores tell the samples of a group apart, not groups.

    Args:
        values: (S, G) expression.
        members: (G, P).
        groups: places of samples, each once.
    """
    scores = np.empty((len(values), members.shape[1]))
    for rows in groups:
        own = values[rows]
        scores[rows] = score_mean_z(own, members, own.mean(axis=0), own.std(axis=0))
    return scores
