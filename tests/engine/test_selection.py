"""Selection: the first good attempt counts, and earlier requests come first."""

import numpy as np

from factory.core.thumbnails import describe_images
from factory.data.records import Verdict
from factory.engine.selection import Selector


def make_candidate(name, accepted=True, seed=0, score=0.5):
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    return {
        "sample_id": f"{name:032x}",
        "class_name": "tumor",
        "scores": {"class_probability": score},
        "accepted": accepted,
        "rejected_by": None if accepted else "classifier",
        "reason": None if accepted else "class_probability 0.1 < 0.5",
        "descriptor": describe_images(pixels)[0].tolist(),
    }


def list_statuses(decisions):
    return [decision.status for decision in decisions]


def test_first_accepted_attempt_wins_and_later_ones_are_spare():
    selector = Selector(None, None, set())
    tries = [
        make_candidate(1, False),
        make_candidate(2),
        make_candidate(3),
        make_candidate(4, False),
    ]
    decisions = selector.select(tries)
    assert list_statuses(decisions) == ["rejected", "accepted", "spare", "spare"]
    assert decisions[0].rejected_by == "classifier"


def test_later_request_loses_its_duplicate_and_goes_on():
    selector = Selector(None, 0.97, set())
    assert list_statuses(selector.select([make_candidate(1, seed=1)])) == ["accepted"]
    decisions = selector.select([make_candidate(2, seed=1), make_candidate(3, seed=2)])
    assert list_statuses(decisions) == ["rejected", "accepted"]
    assert decisions[0].rejected_by == "near_duplicate"
    assert f"{1:032x}" in decisions[0].reason


def test_a_rejected_candidate_does_not_shadow_others():
    selector = Selector(None, 0.97, set())
    selector.select([make_candidate(1, False, seed=1)])
    assert list_statuses(selector.select([make_candidate(2, seed=1)])) == ["accepted"]


def test_the_same_image_of_two_blocks_counts_once():
    taken = set()
    first, second = Selector(None, None, taken), Selector(None, None, taken)
    assert list_statuses(first.select([make_candidate(7)])) == ["accepted"]
    decisions = second.select([make_candidate(7), make_candidate(8)])
    assert list_statuses(decisions) == ["rejected", "accepted"]
    assert decisions[0].rejected_by == "repeated_request"


def test_new_thresholds_decide_over_stored_scores():
    def decide(scores, class_name):
        assert class_name == "tumor"
        accepted = scores["class_probability"] >= 0.4
        return Verdict(accepted, None if accepted else "classifier", "class_probability low")

    selector = Selector(decide, None, set())
    tries = [make_candidate(1, False, score=0.45), make_candidate(2, score=0.9)]
    assert list_statuses(selector.select(tries)) == ["accepted", "spare"]
