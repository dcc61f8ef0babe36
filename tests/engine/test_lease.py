"""One command at a time writes into a run folder: on disks and stores, after kills too."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from factory.cli import main
from factory.core.errors import HeldError, RunBrokenError, StoreError
from factory.core.files.store import FileStore
from factory.engine import lease
from factory.engine.executors.abreast import ABREAST
from factory.engine.run_folder import LEASE, WORK, RunFolder
from factory.models.generators.families.fake import FakeGenerator
from tests import forked
from tests.objectstore import BUCKET, serve
from tests.running import call, list_identities, run, write_recipe


def run_slowly(words):
    """Runs a command whose every batch takes its time."""
    generate = FakeGenerator.generate

    def generate_slowly(self, jobs):
        time.sleep(0.4)
        return generate(self, jobs)

    FakeGenerator.generate = generate_slowly
    main(words)


@pytest.fixture(scope="module")
def server():
    """An S3-compatible server."""
    with serve() as environment:
        yield environment


@pytest.fixture(params=["local", "memory", "s3"])
def files(request, tmp_path, monkeypatch):
    if request.param == "s3":
        for name, value in request.getfixturevalue("server").items():
            monkeypatch.setenv(name, value)
        return FileStore(f"s3://{BUCKET}/{uuid.uuid4()}")
    url = str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4()}"
    return FileStore(url)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Seconds instead of minutes."""
    monkeypatch.setattr(lease, "WATCH", 0.5)
    monkeypatch.setattr(lease, "SETTLE", 0.3)


@pytest.fixture
def begin():
    """Starts slow runs in processes of their own, and ends them."""
    processes = []

    def begin_run(recipe, out):
        process = forked.start(run_slowly, ["run", str(recipe), "--out", str(out)])
        processes.append(process)
        wait_for(lambda: (out / LEASE).is_file() and list((out / WORK).glob("shards/*-r0.json")))
        return process

    yield begin_run
    for process in processes:
        process.kill()
        process.join()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def leave(files, **changes):
    """Leaves the lease of another command; returns its bytes."""
    left = lease.Lease(files, LEASE, "run").holder.model_copy(update=changes)
    data = left.model_dump_json().encode()
    files.write(LEASE, data)
    return data


def hold(files, said=None):
    return lease.hold(files, LEASE, "test", (said if said is not None else []).append)


def snapshot(out):
    return {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "lease.json"
    }


# --- drivers -------------------------------------------------------------------------------------


@pytest.mark.stranger
def test_a_second_driver_is_refused_and_the_first_goes_on(begin, tmp_path):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    first = begin(recipe, out)
    os.kill(first.pid, signal.SIGSTOP)  # so that nothing but the second could touch the folder
    before = snapshot(out)
    for command in (["run", recipe, "--out", out], ["refilter", out]):
        answer = call(*command)
        assert answer.exit_code == 2
        assert f"held by factory run, process {first.pid} on " in answer.stderr
        assert "nothing was touched" in answer.stderr
    assert snapshot(out) == before
    os.kill(first.pid, signal.SIGCONT)
    assert forked.wait(first) == 0
    assert not (out / LEASE).exists()
    run(recipe, tmp_path / "alone")
    assert list_identities(out) == list_identities(tmp_path / "alone")


@pytest.mark.stranger
def test_a_killed_driver_is_followed_at_once(begin, tmp_path):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    first = begin(recipe, out)
    first.kill()
    wait_for(lambda: not lease.is_alive(first.pid, lease.read_start(first.pid)))
    began = time.monotonic()
    answer = call("run", recipe, "--out", out)
    assert answer.exit_code == 0
    assert f"process {first.pid} on " in answer.stderr
    assert "which ended in the middle" in answer.stderr
    assert time.monotonic() - began < 30
    run(recipe, tmp_path / "alone")
    assert list_identities(out) == list_identities(tmp_path / "alone")
    assert not (out / LEASE).exists()


def test_a_zombie_holds_nothing():
    """A killed driver that nobody has waited for."""
    process = subprocess.Popen(["sleep", "60"])
    start = lease.read_start(process.pid)
    assert lease.is_alive(process.pid, start)
    process.kill()
    wait_for(lambda: not lease.is_alive(process.pid, start))
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    process.wait()


@pytest.mark.parametrize("command", ["run", "judge", "refilter", "card"])
def test_every_command_that_writes_is_refused(tmp_path, command):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    run(recipe, out)
    extra = {
        "run": [recipe, "--out", out],
        "judge": ["--data", out, "--recipe", recipe, "--out", out],
    }.get(command, [out])
    if command == "judge":
        out = tmp_path / "judged"
        extra[-1] = out
    left = leave(FileStore(str(out)), host="elsewhere", machine="m")
    before = snapshot(out)
    answer = call(command, *extra)
    assert answer.exit_code == 2, answer.output
    assert "on elsewhere, since" in answer.stderr
    assert snapshot(out) == before
    assert (out / LEASE).read_bytes() == left


def test_a_driver_that_was_followed_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    out = tmp_path / "run"

    def follow(outcome):
        leave(FileStore(str(out)), host="elsewhere", machine="m", token="t")
        time.sleep(2)

    with pytest.raises(RunBrokenError, match=r"taken over by factory run, process .* on elsewhere"):
        run(write_recipe(tmp_path), out, notify=follow)
    assert json.loads((out / LEASE).read_text())["token"] == "t"
    assert not (out / "data").exists()


@pytest.mark.parametrize("is_main", [True, False])
def test_what_is_committed_beside_the_sampling_gets_no_marker_then(is_main, tmp_path, monkeypatch):
    """The folder is lost while a shard's data is written, in a thread that nothing interrupts."""
    monkeypatch.setattr(lease, "BEAT", 0.05)
    out, write, slept = tmp_path / "run", FileStore.write, []

    def write_slowly(self, name, data):
        write(self, name, data)
        if name.endswith(".parquet"):
            leave(FileStore(str(out)), host="elsewhere", machine="m", token="t")
            time.sleep(1)
            slept.append(name)

    monkeypatch.setattr(FileStore, "write", write_slowly)
    with pytest.raises(RunBrokenError, match="taken over"), ThreadPoolExecutor(1) as threads:
        if is_main:
            run(write_recipe(tmp_path), out)
        threads.submit(run, write_recipe(tmp_path), out).result()
    assert 0 < len(slept) <= ABREAST  # what was in hand
    assert not list(out.glob(f"{WORK}/shards/*.json"))


def test_a_driver_that_slept_does_not_finalize(tmp_path):
    """No sign of life was due yet when it woke; it looks before it puts files in their place."""
    out = tmp_path / "run"
    outcomes = []

    def follow(outcome):
        outcomes.append(outcome)
        if len(outcomes) == 7:
            leave(FileStore(str(out)), host="elsewhere", machine="m", token="t")

    with pytest.raises(RunBrokenError, match="what is committed is kept"):
        run(write_recipe(tmp_path), out, notify=follow)
    assert not (out / "data").exists()


# --- leases --------------------------------------------------------------------------------------


def test_a_lease_is_given_back_and_leaves_nothing(files):
    with hold(files):
        assert json.loads(files.read(LEASE))["pid"] == os.getpid()
        with pytest.raises(HeldError, match=f"held by factory test, process {os.getpid()}"):
            hold(files).__enter__()
    assert not files.exists(LEASE)
    if files.is_local:
        assert not Path(files.root).exists()
    with contextlib.suppress(ZeroDivisionError), hold(files):
        raise ZeroDivisionError
    assert not files.exists(LEASE)


def test_a_folder_that_was_there_stays(tmp_path):
    (tmp_path / "run").mkdir()
    with hold(FileStore(str(tmp_path / "run"))):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "follows"),
    [
        ({"pid": 2**22 + 1}, True),
        ({"started": "1"}, True),
        ({}, False),
        ({"machine": "m"}, False),
        ({"machine": "m", "pid": 2**22 + 1}, False),
        ({"machine": "m", "beat": 0.0}, True),
        ({"machine": "m", "beat": 1e12}, True),
        ({"beat": 0.0}, True),
    ],
)
def test_who_is_followed(files, changes, follows):
    left, said = leave(files, **changes), []
    if follows:
        with hold(files, said):
            assert files.read(LEASE) != left
        assert "which ended in the middle" in said[-1]
    else:
        with pytest.raises(HeldError):
            hold(files, said).__enter__()
        assert files.read(LEASE) == left
    assert any("watching" in line for line in said) is ("beat" in changes)


def test_a_holder_with_a_wrong_clock_is_left_alone(files, monkeypatch):
    monkeypatch.setattr(lease, "WATCH", 3.0)
    leave(files, machine="m", beat=0.0)
    timer = threading.Timer(0.5, lambda: leave(files, machine="m", beat=10.0))
    timer.start()
    with pytest.raises(HeldError):
        hold(files).__enter__()
    timer.join()


def test_a_damaged_lease_is_watched_and_replaced(files):
    files.write(LEASE, b"{")
    said = []
    with hold(files, said):
        pass
    assert "damaged lease" in said[0]


@pytest.mark.parametrize("left", [False, True], ids=["none there", "a dead one there"])
def test_of_many_at_once_one_gets_it(files, left):
    if left:
        leave(files, pid=2**22 + 1)
    held = []

    def race(number):
        with contextlib.suppress(HeldError), hold(files):
            held.append(number)
            time.sleep(1.5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(8)))
    assert len(held) == 1
    assert not files.exists(LEASE)


@pytest.mark.parametrize("slow", ["read", "write", "remove"])
def test_of_many_that_are_slow_one_follows(files, slow, monkeypatch):
    """One that was held up between looking and acting takes nothing from who was faster."""
    leave(files, pid=2**22 + 1)
    done, turns, was = [], iter([0.0, 1.0, 2.0, 3.0] + 99 * [0.0]), getattr(FileStore, slow)

    def wait(self, *words):
        found = was(self, *words) if slow == "read" else None
        time.sleep(next(turns))
        return found if slow == "read" else was(self, *words)

    monkeypatch.setattr(FileStore, slow, wait)

    def race(number):
        with contextlib.suppress(HeldError), hold(files):
            begin = time.monotonic()
            time.sleep(1.2)
            done.append((begin, time.monotonic()))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
    monkeypatch.undo()
    assert done
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(sorted(done)))
    assert not files.exists(LEASE)


def test_a_kill_while_following_is_followed(files):
    """Who died with the right to follow in its hands is followed as well."""
    left = leave(files, pid=2**22 + 1)
    right = lease.name_right(LEASE, left)
    files.write(right, left)
    said = []
    with hold(files, said):
        assert not files.exists(right)
    assert [line.count("which ended in the middle") for line in said] == [1]
    assert not files.exists(LEASE)


def test_signs_of_life_are_given(files, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    with hold(files):
        first = json.loads(files.read(LEASE))["beat"]
        wait_for(lambda: json.loads(files.read(LEASE))["beat"] > first, 10)


def test_a_holder_that_cannot_give_signs_of_life_stops(files, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.2)

    def fail(self, name, data):
        raise StoreError("the network went away")

    def work():
        with hold(files):
            monkeypatch.setattr(FileStore, "write", fail)
            time.sleep(5)

    with pytest.raises(RunBrokenError, match="the network went away; for 0 s no sign of life"):
        work()


def test_run_folder_confirms(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.confirm()
    with folder.hold("run"):
        folder.confirm()
        folder.files.remove(LEASE)
        with pytest.raises(RunBrokenError, match="was removed"):
            folder.confirm()
