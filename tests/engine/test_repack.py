"""Finalising: the files are the same whoever writes them, and the driver holds no rows."""

import os
import signal
import threading
import time
import tracemalloc
from collections import deque

import numpy as np
import pyarrow as pa
import pytest

from factory.core.errors import RunBrokenError, StoreError
from factory.core.files.keys import KeyFile
from factory.core.files.store import FileStore
from factory.data.features import build_final_schema
from factory.data.records import Verdict
from factory.engine import finalise as selecting
from factory.engine import near_pairs, repack, repeats
from factory.engine.committed import pick_rows, read_rows
from factory.engine.continuing import read_outline
from factory.engine.executors import cluster, spread
from factory.engine.executors.machines import HERE, Machines, open_machines
from factory.engine.executors.spread import spread_jobs
from factory.engine.finalise import Selected, survey_run
from factory.engine.later import Later
from factory.engine.repeats import Repeats
from factory.engine.run import build_policy
from factory.recipe.recipe import Workers, restore_recipe
from tests.benchmarks.finalise import commit_rows
from tests.filters.test_filters import make_descriptors

RAY = Machines(Workers(executor="ray"))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """300 candidates in shards of 40, of which each fiftieth repeats the one before it."""
    return commit_rows(tmp_path_factory.mktemp("committed"), 300, shard=40, repeats=50)


def finalise(folder, per_file=70, machines=HERE):
    """Selects and repacks; returns what the summary says of the files."""
    record = folder.require_run()
    recipe, outline = restore_recipe(record.recipe), read_outline(record)
    policy = build_policy(folder, recipe)
    survey = survey_run(folder, outline, policy, machines)
    output = recipe.output.model_copy(update={"rows_per_file": per_file})
    schema = build_final_schema(outline.class_names, ["nonfinite"], recipe.columns)
    selected = Selected(folder, outline, policy, survey)
    return repack.write_dataset(selected, output, schema, machines)


def test_files_are_the_same_in_any_order_and_when_jobs_are_done_twice(committed, monkeypatch):
    first = finalise(committed)
    assert (first["rows"], first["rejected_rows"], first["tars"]) == (294, 6, 5)
    assert len(first["sha256"]) == 11

    def spread(machines, work, jobs):
        for job in reversed([*jobs]):
            work(job)  # as one whose process died after it wrote
            yield work(job)

    monkeypatch.setattr(repack, "spread_jobs", spread)
    assert finalise(committed) == first
    for name, sha256 in first["sha256"].items():
        assert committed.files.hash(name) == sha256


@pytest.mark.slow("test_files_are_the_same_in_any_order_and_when_jobs_are_done_twice")
def test_files_are_the_same_from_two_workers(committed, monkeypatch):
    workers = Workers(executor="ray", count=2, cpus=0.5)
    first = finalise(committed)
    monkeypatch.setattr(selecting, "EXACT", 200)
    monkeypatch.setattr(near_pairs, "EXACT", 200)
    with open_machines(workers) as machines:
        assert finalise(committed, machines=machines) == first
    assert not committed.files.exists(repeats.NEAR)


def test_a_search_by_workers_leaves_nothing_and_clears_what_a_kill_left(committed, monkeypatch):
    first = finalise(committed)
    monkeypatch.setattr(selecting, "EXACT", 200)
    monkeypatch.setattr(selecting, "choose_executor", lambda workers: "ray")
    committed.files.write(f"{repeats.NEAR}/left/descriptors", b"of a kill")
    seen = []

    monkeypatch.setattr(Machines, "begin", lambda machines: seen.append("Ray begins"))

    def find(growing, machines, lent, find=repeats.find_pairs):
        series = {near.key: near for near in growing}.values()
        seen.extend(near.rows.path.is_relative_to(committed.files.resolve("")) for near in series)
        seen.append(committed.files.exists(f"{repeats.NEAR}/left"))
        find(series, machines, lent)

    monkeypatch.setattr(repeats, "find_pairs", find)
    assert finalise(committed) == first
    assert seen == ["Ray begins", True, False]
    assert not committed.files.exists(repeats.NEAR)


def test_a_driver_that_sleeps_on_writes_nothing_into_the_search_of_its_successor(tmp_path):
    files = FileStore(str(tmp_path))
    described = make_descriptors(9, 1, {})
    rows = [{"sample_id": f"{i:032x}", "descriptor": each} for i, each in enumerate(described)]

    def judge(row):
        return Verdict(True)

    with repeats.open_repeats(0.97, RAY, files) as late:
        late.add("series", rows[:3], judge)
        with repeats.open_repeats(0.97, RAY, files) as now:
            now.add("series", rows[:3], judge)
            with pytest.raises(StoreError, match="run the same command again"):
                late.add("series", rows[6:], judge)
            now.add("series", rows[3:6], judge)
            found = now._series["series"].near.rows
            assert (np.fromfile(found.path, np.float16).reshape(-1, 256) == described[:6]).all()
    assert not files.exists(repeats.NEAR)


@pytest.mark.parametrize("url", ["memory://run", "memory://run/"])
def test_what_is_lent_lies_where_it_is_removed(url):
    files = FileStore(url)
    with repeats.open_repeats(0.97, RAY, files) as found:
        assert FileStore(found.lent).root.startswith(f"{files.resolve(repeats.NEAR)}/")


@pytest.mark.parametrize("places", [(0, 1, 2, 3, 4), (1, 3), (4,), (2, 0), ()])
def test_rows_of_all_rounds_are_picked_by_request_and_attempt(places):
    class Folder:
        def read_table(self, marker, columns=None, verify=False, without=()):
            return marker

    rounds = [
        pa.table({"index": [0, 0, 1], "attempt": [0, 1, 0], "sample_id": ["a", "b", "d"]}),
        pa.table({"index": [1, 0], "attempt": [1, 2], "sample_id": ["e", "c"]}),
    ]
    every = read_rows(Folder(), rounds, ("index", "attempt", "sample_id"), Later())
    assert [row["sample_id"] for row in every] == [*"abcde"]
    assert pick_rows(Folder(), rounds, places, Later()) == [every[place] for place in places]


def test_an_image_of_another_hash_is_no_row(committed, monkeypatch):
    monkeypatch.setattr(repack, "hash_bytes", lambda data: "0" * 64)
    with pytest.raises(StoreError, match="not have the hash that was recorded"):
        finalise(committed)


def test_few_jobs_are_done_here_and_drawn_one_by_one():
    drawn = []

    def draw():
        for number in range(5):
            drawn.append(number)
            yield number

    found = spread_jobs(HERE, lambda number: number * 2, draw())
    assert next(found) == 0 and len(drawn) <= 3
    assert list(found) == [2, 4, 6, 8]


@pytest.mark.parametrize(("ready", "drawn"), [(3, 3), (99, spread.AHEAD)])
def test_jobs_are_drawn_while_ray_starts_and_not_without_bound(ready, drawn, monkeypatch):
    found, ended = [], threading.Event()
    jobs = (found.append(number) or number for number in range(9))

    def start(address):
        while len(found) < ready and not ended.wait(0.01):
            pass
        raise RunBrokenError("no Ray")

    monkeypatch.setattr(cluster, "start_ray", start)
    wait = threading.Timer(1.0, ended.set)
    wait.start()
    raised = pytest.raises(RunBrokenError, match="no Ray")
    with open_machines(Workers(executor="ray")) as machines, raised:
        next(spread_jobs(machines, abs, jobs, beside=True))
    wait.cancel()
    assert drawn <= len(found) <= spread.AHEAD + 1


def die_once(job):
    """Kills its own process at the first try of some jobs; the first job is the slowest."""
    number, folder = job
    mark = folder / str(number)
    if number % 3 == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5 if number == 0 else 0)
    return number, os.getpid()


@pytest.mark.slow("test_few_jobs_are_done_here_and_drawn_one_by_one")
def test_jobs_of_workers_that_die_are_done_again_and_come_in_order(tmp_path):
    workers = Workers(executor="ray", count=2, cpus=0.5)
    jobs = [(number, tmp_path) for number in range(7)]
    with open_machines(workers) as machines:
        found = list(spread_jobs(machines, die_once, jobs, beside=True))
    assert [number for number, _ in found] == [*range(7)]
    assert os.getpid() not in {process for _, process in found}
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.usefixtures("usual_gc")
def test_the_driver_holds_no_rows(tmp_path, monkeypatch):
    def write_nothing(machines, work, jobs):
        return (repack.Written(each.kind.folder, count_rows(each)) for each in jobs)

    def count_rows(job):
        return sum(len(part.places) for part in job.parts)

    monkeypatch.setattr(repack, "spread_jobs", write_nothing)
    monkeypatch.setattr(repack, "put_in_place", lambda *names: None)
    monkeypatch.setattr(repeats, "find_pairs", lambda growing, *given: deque(growing, 0))
    monkeypatch.setattr(Repeats, "complete", lambda repeats, walks: True)
    peaks = []
    for rows in (400, 400, 1600):  # the first for what is imported late and kept
        folder = commit_rows(tmp_path / f"{rows}-{len(peaks)}", rows, shard=100)
        tracemalloc.start()
        finalise(folder, per_file=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_keys_that_repeat_are_found_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("factory.core.files.keys._PART", 100)
    keys = np.random.default_rng(0).integers(1 << 63, size=1000, dtype=np.uint64) * 2
    file = KeyFile(tmp_path / "keys")
    file.add(keys)
    assert file.find_repeated() == frozenset()
    file.add(keys[::100])
    assert file.find_repeated() == set(keys[::100].tolist())
