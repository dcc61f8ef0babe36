"""How well objects that were found match real ones: aggregated Jaccard index, panoptic quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATCH = 0.5
"""Above it, intersection over union matches an object with one other at most."""

Labels = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixels that objects share: (R, P) of each real and found pair, and those of each object."""

    shared: NDArray[np.int64]
    real: NDArray[np.int64]
    found: NDArray[np.int64]

    @property
    def unions(self) -> NDArray[np.int64]:
        """(R, P) pixels of either of a pair."""
        return np.asarray(self.real[:, None] + self.found[None] - self.shared)


@dataclass(frozen=True, slots=True)
class Panoptic:
    """Matches of one image, or of several together.

    Attributes:
        iou: sum of the intersections over unions of what was matched.
        matched: pairs.
        missed: real objects without one found.
        extra: found ones that are not real.
    """

    iou: float
    matched: int
    missed: int
    extra: int

    @property
    def weight(self) -> float:
        """What `iou` is divided by: matched pairs, and half of what is missed or extra."""
        return self.matched + 0.5 * self.missed + 0.5 * self.extra


def measure_overlaps(real: Labels, found: Labels) -> Overlaps:
    """Counts the pixels that objects share.

    Args:
        real: (H, W), 1 .. R where an object is, each of them somewhere.
        found: (H, W), 1 .. P likewise.
    """
    rows, columns = int(real.max(initial=0)) + 1, int(found.max(initial=0)) + 1
    pairs = real.astype(np.int64) * columns + found
    table = np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)
    return Overlaps(table[1:, 1:], table.sum(1)[1:], table.sum(0)[1:])


def compute_aji(overlaps: Overlaps) -> float:
    """Returns the aggregated Jaccard index (Kumar et al. 2017, IEEE TMI 36:1550, Algorithm 1).

    Each real object meets the found one of largest intersection over union, which may meet several;
    intersections and unions are added up, and to the unions all found objects that none meets. A
    real object that nothing overlaps adds its own pixels. 1 where there are neither.
    """
    if not overlaps.real.sum() + overlaps.found.sum():
        return 1.0
    if not overlaps.shared.any():
        return 0.0
    best = (overlaps.shared / overlaps.unions).argmax(1)
    rows = np.arange(len(best))
    shared = overlaps.shared[rows, best]
    is_met = shared > 0
    unions = np.where(is_met, overlaps.unions[rows, best], overlaps.real).sum()
    alone = np.ones(len(overlaps.found), bool)
    alone[best[is_met]] = False
    return float(shared.sum() / (unions + overlaps.found[alone].sum()))


def match_objects(overlaps: Overlaps) -> Panoptic:
    """Matches objects for panoptic quality (Kirillov et al. 2019, arXiv 1801.00868, equation 1).

    Quality is `iou / weight`; over several images both are added up first, as published.
    """
    ratios = overlaps.shared / np.maximum(overlaps.unions, 1)
    matches = ratios[ratios > MATCH]
    count = len(matches)
    return Panoptic(
        float(matches.sum()), count, len(overlaps.real) - count, len(overlaps.found) - count
    )
