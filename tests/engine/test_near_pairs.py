"""Near-duplicates of a large set: none is missed, at a cost that grows as it does."""

import errno
import itertools
import os
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import StoreError
from factory.core.thumbnails import list_symmetries
from factory.engine import near_files, near_hashes, near_pairs
from factory.engine.dedup import compare_pairs
from factory.engine.executors.machines import HERE, Machines
from factory.engine.near_files import NAMES, DescriptorFile, embed, write_hashed
from factory.engine.near_hashes import Buckets, count_groups
from factory.engine.near_pairs import Hashing, NearPairs, find_pairs
from factory.recipe.recipe import Workers
from tests.filters.test_filters import find_duplicates_plainly, make_descriptors

SIMILARITY = 0.97


def find(folder, descriptors, similarity=SIMILARITY):
    """Returns what an index finds of descriptors, in a file that is written in two goes."""
    rows = DescriptorFile(folder / "descriptors")
    rows.add(descriptors[:7])
    rows.add(descriptors[7:])
    near = NearPairs(rows, similarity, "series")
    find_pairs([near], HERE)
    return near


def keep(near):
    """Walks as a selection does: a row is kept where it repeats no kept one before it."""
    kept, found = set(), []
    for row in range(near.rows.count):
        repeated = sorted(kept & set(near.earlier.get(row, ())))
        found.append(repeated[0] if repeated else -1)
        if not repeated:
            kept.add(row)
    return kept, found


def add_hard_ones(descriptors, generator):
    """Puts a crowd of equal ones, a chain of near ones, and pairs just around the limit into it."""
    some = descriptors.astype(np.float64)
    some[40:70] = some[3]
    drift = generator.normal(size=256) / 16
    for place in range(80, 100):
        some[place] = some[place - 1] + 0.12 * drift
    for place, similarity in zip(range(120, 160), np.linspace(0.965, 0.985, 40), strict=True):
        other = generator.normal(size=256)
        other -= (other @ some[place - 20]) * some[place - 20]
        other /= np.linalg.norm(other)
        made = similarity * some[place - 20] + np.sqrt(1 - similarity**2) * other
        some[place] = made[list_symmetries()[place % 8]]
    return (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("exact", [1 << 15, 60])
def test_what_is_kept_equals_the_plain_greedy_rule(exact, tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", exact)
    descriptors = add_hard_ones(make_descriptors(300, 1, {250: 9}), np.random.default_rng(2))
    near = find(tmp_path, descriptors)
    plain = find_duplicates_plainly(descriptors, SIMILARITY)
    kept, found = keep(near)
    assert kept == {row for row, repeated in enumerate(plain) if repeated < 0}
    assert 30 < 300 - len(kept) < 120
    assert near.is_checked[sorted(kept)].all()
    assert exact == 60 or found == plain  # and the first that each repeats
    for row, earlier in near.earlier.items():
        assert all(compare_pairs(descriptors[[row]], descriptors[earlier]) > SIMILARITY)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_no_pose_changes_invariants_and_no_distance_grows(seed, share):
    generator = np.random.default_rng(seed)
    first = generator.normal(size=256)
    second = share * first + (1 - share) * generator.normal(size=256)
    both = np.stack([each / np.linalg.norm(each) for each in (first, second)])
    here = embed(both)
    for pose in list_symmetries():
        np.testing.assert_allclose(embed(both[:, pose]), here, atol=1e-5)
    apart = min(np.linalg.norm(both[0] - both[1][pose]) for pose in list_symmetries())
    assert np.linalg.norm(here[0] - here[1]) <= apart + 1e-5


def make_walk(generator):
    """Descriptors that drift, so that each repeats some before it: chains everywhere."""
    steps = np.cumsum(0.1 * generator.normal(size=(300, 256)), axis=0) + generator.normal(size=256)
    return (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float16)


def make_crowds(generator):
    """Five images, sixty times each, in any order."""
    return np.repeat(make_descriptors(5, 7, {}), 60, axis=0)[generator.permutation(300)]


def make_mixed(generator):
    return add_hard_ones(make_descriptors(300, 1, {250: 9}), generator)


@pytest.mark.parametrize(
    ("make", "similarity", "ahead", "told"),
    [
        (make_mixed, 0.97, 6, 1 << 20),
        (make_mixed, 0.97, 40, 1),
        (make_walk, 0.97, 3, 1 << 20),
        (make_walk, 0.97, 40, 50),
        (make_crowds, 0.97, 6, 1),
    ],
)
def test_pairs_are_the_same_whoever_does_which_job_when(
    make, similarity, ahead, told, tmp_path, monkeypatch
):
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    monkeypatch.setattr(near_pairs, "count_groups", lambda taken: 9)
    descriptors = make(np.random.default_rng(2))
    (tmp_path / "alone").mkdir()
    alone = find(tmp_path / "alone", descriptors, similarity)

    def spread(machines, work, jobs, beside):
        """Has so many jobs drawn before what the first of them found is known."""
        while some := list(itertools.islice(jobs, ahead)):
            found = [work(job) for job in reversed(some)]
            yield from reversed(found)

    monkeypatch.setattr(near_pairs, "spread_jobs", spread)
    monkeypatch.setattr(near_hashes, "_TOLD", told)
    (tmp_path / "spread").mkdir()
    others = find(tmp_path / "spread", descriptors, similarity)
    assert len(alone.earlier) > 20
    assert sort_pairs(others) == sort_pairs(alone)
    assert (others.is_checked == alone.is_checked).all()


def sort_pairs(near):
    return {row: sorted(earlier) for row, earlier in near.earlier.items()}


def test_series_are_jobs_of_their_own_unless_they_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", 100)
    sizes = []

    def spread(machines, work, jobs, beside):
        for some in jobs:
            sizes.append([job.key for job in some])
            yield work(some)

    monkeypatch.setattr(near_pairs, "spread_jobs", spread)
    series = []
    for key, count in {"a": 60, "b": 50, "c": 30, "d": 90, "e": 1}.items():
        (tmp_path / key).mkdir()
        rows = DescriptorFile(tmp_path / key / DescriptorFile.name)
        rows.add(make_descriptors(count, 3, {count - 1: 0} if count > 1 else {}))
        series.append(NearPairs(rows, SIMILARITY, key))
    find_pairs(series, HERE)
    assert sizes == [["a", "b"], ["c", "d"], ["e"]]
    assert [[*near.earlier] for near in series] == [[59], [49], [29], [89], []]


def test_workers_elsewhere_borrow_what_is_lent(tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    monkeypatch.setattr(near_pairs, "count_groups", lambda taken: 3)
    descriptors = make_mixed(np.random.default_rng(2))
    (tmp_path / "here").mkdir()
    rows = DescriptorFile(tmp_path / "here" / DescriptorFile.name)
    rows.add(descriptors)
    lent, here = (NearPairs(rows, SIMILARITY, "series") for _ in range(2))
    find_pairs([here], HERE)
    for path in (tmp_path / "here").iterdir():
        if path.name != DescriptorFile.name:
            path.unlink()
    find_pairs([lent], HERE, "memory://lent")
    assert sort_pairs(lent) == sort_pairs(here)
    assert lent.url == "memory://lent/series"


@pytest.mark.parametrize("lent", ["", "memory://growing"])
def test_first_rows_are_compared_while_others_still_come(lent, tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    monkeypatch.setattr(near_pairs, "count_groups", lambda taken: 3)
    descriptors, drawn = make_mixed(np.random.default_rng(2)), []
    for name in ("alone", "growing"):
        (tmp_path / name).mkdir()
    alone = find(tmp_path / "alone", descriptors)
    near = NearPairs(DescriptorFile(tmp_path / "growing" / "descriptors"), SIMILARITY, "series")

    def grow():
        for start in range(0, 300, 50):
            near.rows.add(descriptors[start : start + 50])
            yield near

    def spread(machines, work, jobs, beside):
        for some in jobs:
            drawn.append((*(type(job) for job in some), near.rows.count))
            yield work(some)

    monkeypatch.setattr(near_pairs, "spread_jobs", spread)
    find_pairs(grow(), HERE, lent)
    assert drawn == [(near_pairs.FirstJob, 100), *[(near_pairs.GroupJob, 300)] * 3]
    assert sort_pairs(near) == sort_pairs(alone)
    assert (near.is_checked == alone.is_checked).all()


@pytest.mark.parametrize("count", [300, 256, 257, 40])
def test_hashes_written_beside_what_is_read_are_those_written_at_the_end(
    count, tmp_path, monkeypatch
):
    for module, name, size in ((near_files, "CHUNK", 16), (near_pairs, "_HASHED", 64)):
        monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    threads, descriptors = Counter(), make_descriptors(count, 1, {})

    def write(rows, start, stop):
        threads[threading.current_thread().name.partition("_")[0]] += 1
        write_hashed(rows, start, stop)

    monkeypatch.setattr(near_pairs, "write_hashed", write)
    for name, machines in (("here", HERE), ("aside", Machines(Workers(executor="ray")))):
        (tmp_path / name).mkdir()
        near = NearPairs(DescriptorFile(tmp_path / name / "descriptors"), SIMILARITY, "series")
        with Hashing(machines) as hashing:
            for start in range(0, count, 50):
                near.rows.add(descriptors[start : start + 50])
                hashing.go_on(near)
            hashing.end(near)
    for name in NAMES:
        here, aside = ((tmp_path / each / name).read_bytes() for each in ("here", "aside"))
        assert here == aside and len(here) % count == 0
    whole = [stop for stop in (64, 128, 192, 256) if 60 < stop <= count]
    assert threads["hashing"] == len({min(stop, count) for stop in whole})
    assert threads["MainThread"] == 2


def test_hashes_that_cannot_be_written_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "_HASHED", 4096)
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    near = NearPairs(DescriptorFile(tmp_path / "descriptors"), SIMILARITY, "series")
    near.rows.add(np.zeros((4096, 256), np.float16))
    (tmp_path / "sketch").mkdir()
    with Hashing(Machines(Workers(executor="ray"))) as hashing:
        hashing.go_on(near)
        with pytest.raises(StoreError, match="sketch"):
            hashing.end(near)


def test_a_table_is_looked_through_with_few_bytes_of_each_row(tmp_path):
    count = 1 << 20
    codes = np.random.default_rng(0).integers(1 << 32, size=count, dtype=np.uint32)
    buckets = Buckets(tmp_path, count, count, SIMILARITY)
    every = np.arange(count, dtype=np.int32)
    tracemalloc.start()
    earlier, later = buckets.look(codes, every)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(earlier) == len(later) == 0
    assert peak < 12 * count and buckets.settled.nbytes == 4 * count


@pytest.mark.parametrize("name", ["codes", "descriptors"])
def test_a_worker_without_room_for_its_files_tells_so(name, tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", 60)
    rows = DescriptorFile(tmp_path / "descriptors")
    rows.add(make_mixed(np.random.default_rng(2)))
    near = NearPairs(rows, SIMILARITY, "series")
    near.compare_first()

    def open_full(path, mode="r", *given, open_it=Path.open, **named):
        if mode == "wb" and path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_it(path, mode, *given, **named)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(StoreError, match=f"factory-.*/{name}: No space left.*: free space"):
        find_pairs([near], HERE, "memory://full")


def test_images_that_are_all_alike_cost_one_block_of_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "_BLOCK", 20)
    (tmp_path / "alike").mkdir()
    alike = find(tmp_path / "alike", np.repeat(make_descriptors(1, 3, {}), 300, axis=0))
    assert alike.is_checked.sum() == 1
    assert alike.compared <= 20 * 20 // 2 + 280  # each of the others with the first alone
    descriptors = make_mixed(np.random.default_rng(2))
    (tmp_path / "mixed").mkdir()
    kept, _ = keep(find(tmp_path / "mixed", descriptors))
    plain = find_duplicates_plainly(descriptors, SIMILARITY)
    assert kept == {row for row, repeated in enumerate(plain) if repeated < 0}


def test_groups_are_as_many_as_leave_a_pair_unseen_once_in_a_million():
    assert count_groups(18) == 29
    assert count_groups(22) > count_groups(18)


def test_comparisons_grow_with_the_rows_and_not_with_their_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(near_pairs, "EXACT", 256)
    monkeypatch.setattr(near_pairs, "count_groups", lambda taken: 2)
    compared = []
    for count in (2000, 8000):
        (folder := tmp_path / str(count)).mkdir()
        near = find(folder, make_descriptors(count, count, {count - 1: 300}))
        assert near.earlier == {count - 1: [300]}
        compared.append(near.compared)
    assert compared[1] <= 1.5 * 4 * compared[0]
    assert compared[1] < 8000**2 / 100
