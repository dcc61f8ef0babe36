"""Aggregated Jaccard index and panoptic quality, by hand and against other implementations."""

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from factory.core.metrics.segments import compute_aji, match_objects, measure_overlaps
from factory.data.objects import find_objects


def paint(*boxes, size=20):
    labels = np.zeros((size, size), np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = number
    return labels


def test_a_table_worked_by_hand():
    """Real: 16 px, 16 px, 4 px. Found: 12 px inside the first, 8 px half over the second, 9 px."""
    real = paint((0, 0, 4, 4), (8, 8, 12, 12), (16, 0, 18, 2))
    found = paint((0, 0, 3, 4), (8, 10, 12, 14), (15, 15, 18, 18))
    overlaps = measure_overlaps(real, found)
    assert overlaps.shared.tolist() == [[12, 0, 0], [0, 8, 0], [0, 0, 0]]
    # 12/16, 8/24; the third meets none (4), and 9 px are of nothing: (12 + 8) / (16 + 24 + 4 + 9)
    assert compute_aji(overlaps) == pytest.approx(20 / 53)
    panoptic = match_objects(overlaps)  # only the first is above one half
    assert (panoptic.matched, panoptic.missed, panoptic.extra) == (1, 2, 2)
    assert panoptic.iou / panoptic.weight == pytest.approx(0.75 / 3)


def test_one_found_object_may_meet_two_real_ones():
    """Two of 8 px in one blob of 16: 8 + 8 over 16 + 16; Kumar's index lets it, panoptic not."""
    real, found = paint((0, 0, 2, 4), (2, 0, 4, 4)), paint((0, 0, 4, 4))
    overlaps = measure_overlaps(real, found)
    assert compute_aji(overlaps) == pytest.approx(0.5)
    assert match_objects(overlaps).matched == 0


def test_where_there_is_nothing():
    nothing, something = paint(), paint((0, 0, 4, 4))
    assert compute_aji(measure_overlaps(nothing, nothing)) == 1
    assert match_objects(measure_overlaps(nothing, nothing)).weight == 0
    for pair in ((nothing, something), (something, nothing)):
        assert compute_aji(measure_overlaps(*pair)) == 0
        assert match_objects(measure_overlaps(*pair)).weight == 0.5


def draw_pair(seed):
    """Discs, and the same ones moved, some left out, some added."""
    draw = np.random.default_rng(seed)
    y, x = np.indices((64, 64))
    real, found = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    for centre in draw.integers(4, 60, (14, 2)):
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < draw.integers(6, 40)
        real |= disc
        if draw.random() < 0.8:
            found |= np.roll(disc, draw.integers(-2, 3, 2), (0, 1))
    found |= (y - 5) ** 2 + (x - 50) ** 2 < 12
    return [find_objects(each.astype(np.uint8), False).labels for each in (real, found)]


def compute_aji_by_sets(real, found):
    """Algorithm 1 of Kumar et al., word by word, on sets of pixels."""
    sets = [
        [set(zip(*np.nonzero(labels == n), strict=True)) for n in range(1, labels.max() + 1)]
        for labels in (real, found)
    ]
    used, over, under = set(), 0, 0
    for one in sets[0]:
        ratios = [len(one & other) / len(one | other) for other in sets[1]]
        best = int(np.argmax(ratios))
        if ratios[best] == 0:
            under += len(one)
            continue
        over += len(one & sets[1][best])
        under += len(one | sets[1][best])
        used.add(best)
    under += sum(len(other) for n, other in enumerate(sets[1]) if n not in used)
    return over / under


@pytest.mark.parametrize("seed", range(6))
def test_both_agree_with_other_implementations(seed):
    real, found = draw_pair(seed)
    overlaps = measure_overlaps(real, found)
    assert 0.1 < compute_aji(overlaps) < 0.95
    assert compute_aji(overlaps) == pytest.approx(compute_aji_by_sets(real, found))
    reference = PanopticQuality(things={1}, stuffs={0}, return_per_class=True)
    given = [np.stack([(each > 0).astype(np.int64), each], -1)[None] for each in (found, real)]
    quality = reference(*map(torch.from_numpy, given))
    panoptic = match_objects(overlaps)
    assert panoptic.iou / panoptic.weight == pytest.approx(float(quality[0, 0]))
