"""Decisions are made once, lie on disk, and are told again without a row being read."""

import tracemalloc

import pytest

from factory.core.errors import StoreError
from factory.data.records import Shard
from factory.engine.continuing import read_outline
from factory.engine.decided import Decided, DecidedShard, iterate_decisions
from factory.engine.finalise import survey_run
from factory.engine.later import Later
from factory.engine.run import build_policy
from factory.engine.run_folder import RunFolder
from factory.engine.selection import ACCEPTED, Decision
from factory.recipe.recipe import restore_recipe
from tests.benchmarks.finalise import commit_rows

INSTEAD = Decision("rejected", "family", "lacks another member of its family")
REJECTED = Decision("rejected", "near_duplicate", "similarity > 0.97 to é", "ab")
SPARE = Decision("spare", None, None)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """300 candidates in shards of 40, of which each fiftieth repeats the one before it."""
    return commit_rows(tmp_path_factory.mktemp("committed"), 300, shard=40, repeats=50)


def survey(folder):
    record = folder.require_run()
    recipe, outline = restore_recipe(record.recipe), read_outline(record)
    return survey_run(folder, outline, build_policy(folder, recipe)), outline


def test_decisions_come_back_in_order_as_often_as_they_are_asked_for():
    made = [
        DecidedShard(Shard("a", 0, 3), 1, [ACCEPTED, ACCEPTED, REJECTED, SPARE, SPARE, ACCEPTED]),
        DecidedShard(Shard("b", 0, 2), 2, [REJECTED]),
        DecidedShard(Shard("a", 3, 6), 1, []),
    ]
    decided = Decided()
    for each in made:
        decided.add(each)
    for _ in range(2):
        found = list(decided)
        assert [(each.shard, each.rounds, each.decisions) for each in found] == [
            (each.shard, each.rounds, each.decisions) for each in made
        ]
    assert all(each is ACCEPTED for each in found[0].decisions if each.status == "accepted")


def test_accepted_images_that_are_left_out_are_decided_otherwise():
    decided = Decided()
    names = [f"{number:032x}" for number in (7, 8)]
    decided.add(DecidedShard(Shard("a", 0, 3), 1, [ACCEPTED, SPARE, REJECTED, ACCEPTED], names))
    decided.add(DecidedShard(Shard("a", 3, 4), 1, [ACCEPTED], [f"{9:032x}"]))
    decided.leave_out(frozenset({8, 9}), INSTEAD)
    assert [each.decisions for each in decided] == [
        [ACCEPTED, SPARE, REJECTED, INSTEAD],
        [INSTEAD],
    ]


@pytest.mark.usefixtures("usual_gc")
def test_memory_holds_decisions_of_one_shard():
    peaks = []
    for shards in (20, 20, 200):
        tracemalloc.start()
        decided = Decided()
        for number in range(shards):
            reasons = (f"contrast {number + place / 1000:g} < 0.1" for place in range(100))
            some = [Decision("rejected", "finite", reason) for reason in reasons]
            decided.add(DecidedShard(Shard("a", number, number + 1), 1, some))
        assert sum(len(each.decisions) for each in decided) == 100 * shards
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_rows_come_with_their_decisions(committed):
    found, outline = survey(committed)
    read = committed, outline, Later(), found.decided
    rows = [each for _, candidates in iterate_decisions(*read, ()) for each in candidates]
    assert [row["index"] for row, _ in rows] == [*range(300)]
    repeats = [row["index"] for row, decision in rows if decision.status == "rejected"]
    assert repeats == [49, 99, 149, 199, 249, 299]
    assert {decision.rejected_by for _, decision in rows} == {None, "near_duplicate"}


def test_a_shard_that_changed_since_is_refused_and_a_later_round_is_not_read(
    committed, monkeypatch
):
    found, outline = survey(committed)
    one = next(iter(found.decided))
    for decisions, rounds in (([*one.decisions, SPARE], 1), (one.decisions, 2)):
        decided = Decided()
        decided.add(DecidedShard(one.shard, rounds, decisions))
        with pytest.raises(StoreError, match=f"{one.shard.id} changed while it was read: run"):
            list(iterate_decisions(committed, outline, Later(), decided, ()))
    read_marker = RunFolder.read_marker
    monkeypatch.setattr(
        RunFolder,
        "read_marker",
        lambda folder, shard, number=0: read_marker(folder, shard) if number < 2 else None,
    )
    read = iterate_decisions(committed, outline, Later(), found.decided, ())
    assert sum(len(candidates) for _, candidates in read) == 300
