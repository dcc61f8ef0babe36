"""Selection: the first good attempt counts, and earlier requests come first."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factory.api import refilter
from factory.core.errors import MismatchError, RecipeError
from factory.core.thumbnails import describe_images
from factory.data.records import Verdict
from factory.engine.repeats import TakenIds, open_repeats
from factory.engine.selection import OVER_GROUP_QUOTA, OVER_QUOTA, Selector
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests.running import (
    ask,
    find_messages,
    list_identities,
    read_rows,
    run,
    write_recipe,
)


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


def select_all(*requests, max_similarity=0.97):
    """Decides the candidates of requests, one after the other, as a run does."""
    with open_repeats(max_similarity) as repeats:
        judge = Selector(None, None, set()).judge
        repeats.find([("series", [row for candidates in requests for row in candidates])], judge)
        while True:
            walks = repeats.begin_walks()
            taken = TakenIds(repeats.repeated)
            selector = Selector(None, max_similarity, taken, walked=walks["series"])
            decisions = [selector.select(candidates) for candidates in requests]
            if repeats.complete(walks):
                return decisions


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
    first, decisions = select_all(
        [make_candidate(1, seed=1)], [make_candidate(2, seed=1), make_candidate(3, seed=2)]
    )
    assert list_statuses(first) == ["accepted"]
    assert list_statuses(decisions) == ["rejected", "accepted"]
    assert decisions[0].rejected_by == "near_duplicate"
    assert f"{1:032x}" in decisions[0].reason


def test_a_rejected_candidate_does_not_shadow_others():
    _, decisions = select_all([make_candidate(1, False, seed=1)], [make_candidate(2, seed=1)])
    assert list_statuses(decisions) == ["accepted"]


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


# --- no shot fills a class ------------------------------------------------------------------------


def offer(selector, index, *shots):
    """Offers a request good candidates of these shots; returns which shot was taken, if any."""
    tries = [
        {
            **make_candidate(100 * index + place + 1),
            "descriptor": None,
            "index": index,
            "reference_sha256": shot,
        }
        for place, shot in enumerate(shots)
    ]
    decisions = selector.select(tries)
    taken = [shot for shot, each in zip(shots, decisions, strict=True) if each.status == "accepted"]
    refused = {each.rejected_by for each in decisions if each.status == "rejected"}
    assert refused <= {OVER_QUOTA}
    return taken[0] if taken else None


def test_a_shot_over_its_quota_leaves_the_slot_to_the_next():
    selector = Selector(None, None, set(), {"max_share_per_shot": 0.4})
    taken = [offer(selector, index, "a", "b", "c") for index in range(10)]
    assert taken == ["a", "b", "a", "b", "c", "a", "b", "a", "b", "c"]


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=5), max_size=40),
    st.sampled_from([0.07, 0.1, 0.25, 1 / 3, 0.5, 1.0]),
)
def test_no_shot_gives_more_than_its_share_however_many_are_asked_for(requests, share):
    selector = Selector(None, None, set(), {"max_share_per_shot": share})
    used = Counter()
    for number, shots in enumerate(requests, 1):
        taken = offer(selector, number - 1, *shots)
        used.update([] if taken is None else [taken])
        assert all(count < share * number + 1 for count in used.values())
        if taken is None:  # only for want of room
            assert all(used[shot] + 1 > share * number for shot in shots)


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Three shots, of which one alone varies well."""
    folder = tmp_path_factory.mktemp("shots")
    rng = np.random.default_rng(0)
    (folder / "tumor").mkdir()
    for name, contrast in (("a", 60), ("b", 13), ("c", 12)):
        pixels = rng.normal([190, 120, 180], contrast, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / "tumor" / f"{name}.png")
    return folder


def write_quota(folder, shots, count=12, share=None, **changes):
    block = {"kind": "reference", "images": str(shots), "per_class": count, "strength": 0.3}
    block |= {} if share is None else {"max_share_per_shot": share}
    filters = [{"kind": "finite", "min_contrast": 0.0525}]
    return write_recipe(folder, conditions=[block], filters=filters, **changes)


def count_shots(out):
    return Counter(row["reference_sha256"][:6] for row in read_rows(out))


def test_a_quota_holds_in_a_run_and_is_told(shots, tmp_path):
    free = run(write_quota(tmp_path / "r", shots), tmp_path / "free")
    kept = run(write_quota(tmp_path / "q", shots, share=0.5), tmp_path / "kept")
    assert max(count_shots(tmp_path / "free").values()) > 6
    assert max(count_shots(tmp_path / "kept").values()) == 6
    (part,) = kept.summary.series
    assert part.rejected[OVER_QUOTA] > 0
    assert part.details == ("no shot gives more than 0.5 of what is asked for, rounded up",)
    assert OVER_QUOTA not in free.summary.series[0].rejected
    held = [
        row for row in read_rows(tmp_path / "kept", "rejected") if row["rejected_by"] == OVER_QUOTA
    ]
    assert held and all("max_share_per_shot 0.5" in row["reason"] for row in held)
    free_ids, kept_ids = (
        {(row["ordinal"], row["attempt"]): row["sample_id"] for kind in ("data", "rejected")
         for row in read_rows(tmp_path / out, kind)}
        for out in ("free", "kept")
    )  # fmt: skip
    shared = free_ids.keys() & kept_ids.keys()
    assert len(shared) >= 12 and all(free_ids[each] == kept_ids[each] for each in shared)
    again = refilter(str(tmp_path / "kept"), ["filters.finite.min_contrast=0.0"])
    assert max(count_shots(tmp_path / "kept").values()) <= 6, "the run's record has the quota"
    assert again.summary.accepted == 12


def test_a_quota_of_patients_holds_over_their_shots(shots, tmp_path):
    """Two shots are of one patient, the third of another: neither gives more than half."""
    (tmp_path / "real" / "tumor").mkdir(parents=True)
    for name, patient in (("a", "p1"), ("b", "p1"), ("c", "p2")):
        data = (shots / "tumor" / f"{name}.png").read_bytes()
        (tmp_path / "real" / "tumor" / f"{patient}{name}.png").write_bytes(data)
    block = {"kind": "reference", "images": str(tmp_path / "real"), "per_class": 12}
    block |= {"strength": 0.3, "max_share_per_group": 0.5, "group_pattern": r"^(p\d)"}
    filters = [{"kind": "finite", "min_contrast": 0.0}]
    recipe = write_recipe(tmp_path, conditions=[block], filters=filters, budget={"attempts": 4})
    done = run(recipe, tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    groups = Counter(json.loads(row["provenance"])["reference_group_sha256"] for row in rows)
    assert sorted(groups.values()) == [6, 6] and len(rows) == 12
    (part,) = done.summary.series
    assert part.rejected[OVER_GROUP_QUOTA] > 0
    ask("verify", tmp_path / "out")
    narrow = {**block, "max_share_per_group": 0.4}
    message = find_messages(write_recipe(tmp_path / "n", conditions=[narrow]))
    assert "2 patients or slides" in message["conditions[0].max_share_per_group"]
    unknown = {k: v for k, v in block.items() if k != "group_pattern"}
    message = find_messages(write_recipe(tmp_path / "u", conditions=[unknown]))
    assert "no patient or slide is known" in message["conditions[0].max_share_per_group"]


def test_a_quota_does_not_depend_on_shards_and_grows_at_the_end(shots, tmp_path):
    whole = write_quota(tmp_path / "whole", shots, share=0.5, output={"shard_size": 100})
    run(whole, tmp_path / "one")
    run(write_quota(tmp_path / "cut", shots, 6, 0.5), tmp_path / "two")
    before = list_identities(tmp_path / "two")
    run(write_quota(tmp_path / "cut", shots, 12, 0.5), tmp_path / "two", extend=True)
    assert list_identities(tmp_path / "one") == list_identities(tmp_path / "two")
    assert set(before) <= set(list_identities(tmp_path / "two"))


def test_a_quota_that_cannot_be_kept_is_refused(shots, tmp_path):
    path = write_quota(tmp_path, shots, share=0.3, pick={"keep": "best", "by": "contrast"})
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe(path))
    problems = str(caught.value)
    assert "3 shots of class tumor can fill 90% at most: at least 0.333, got 0.3" in problems
    assert "pick keeps what the quota does not count" in problems
    with pytest.raises(MismatchError, match="holds more than the recipe asks for"):
        run(write_quota(tmp_path / "a", shots, 2), tmp_path / "out")
        run(write_quota(tmp_path / "b", shots, 2, 0.5), tmp_path / "out")
