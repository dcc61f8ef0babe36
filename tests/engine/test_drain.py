"""A run that is asked to stop lays down its work, keeps it, and ends in bounded time."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from factory.engine import drain, shard
from factory.engine.drain import Drain, Drained
from factory.engine.executors import cluster
from factory.filters.finite import FiniteFilter
from tests import forked
from tests.running import list_identities, run, write_recipe

ONE = {"conditions": [{"kind": "class", "per_class": {"normal": 12}}], "output": {"shard_size": 12}}
"""One shard of three batches and more."""


@pytest.fixture
def batches(monkeypatch):
    """What was asked of the generator, and what to do when so many batches were."""
    made, generate = {"jobs": [], "at": 0, "act": lambda: None}, shard.Worker.generate

    def count(self, jobs):
        made["jobs"].append([(job.request.index, job.attempt) for job in jobs])
        if len(made["jobs"]) == made["at"]:
            made["act"]()
        return generate(self, jobs)

    monkeypatch.setattr(shard.Worker, "generate", count)
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_keeps_every_batch(tmp_path, batches, number):
    recipe = write_recipe(tmp_path, **ONE)
    run(recipe, tmp_path / "whole")
    whole, batches["jobs"] = batches["jobs"], []
    assert len(whole) > 3
    batches.update(at=2, act=lambda: signal.raise_signal(number))
    before, told = signal.getsignal(number), []
    with pytest.raises(Drained):
        run(recipe, tmp_path / "run", say=told.append)
    assert signal.getsignal(number) is before
    assert len(batches["jobs"]) == 2
    assert [line for line in told if line.startswith("stopping: batches in hand are ended")]
    assert not list((tmp_path / "run/.factory/shards").glob("*"))
    batches["at"] = 0
    assert run(recipe, tmp_path / "run").exit_code == 0
    assert batches["jobs"] == whole
    assert list_identities(tmp_path / "run") == list_identities(tmp_path / "whole")


def test_a_second_signal_stops_at_once(tmp_path, batches):
    def stop_twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    batches.update(at=2, act=stop_twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(write_recipe(tmp_path, **ONE), tmp_path / "run")
    assert not isinstance(caught.value, Drained)
    assert not list((tmp_path / "run/.factory").glob("parts/*"))


def test_a_batch_that_takes_too_long_is_not_waited_for(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(drain, "GRACE", 0.2)

    def hang():
        signal.raise_signal(signal.SIGTERM)
        while True:
            time.sleep(0.05)

    batches.update(at=2, act=hang)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(write_recipe(tmp_path, **ONE), tmp_path / "run")
    assert not isinstance(caught.value, Drained)


def test_a_signal_while_ray_starts_is_heard(monkeypatch):
    import ray

    def init(**arguments):
        ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Drained), Drain().listen(), cluster._keep_signals():
        cluster._connect(str, address="local")


@pytest.mark.parametrize("place", ["here", "in a thread"])
def test_a_signal_after_ray_took_it_over_is_heard(place, monkeypatch):
    """As its core does, below Python, in whatever thread it starts."""
    import ray

    def init(**arguments):
        cluster.SET_HANDLER(signal.SIGTERM, signal.SIG_IGN)

    def connect():
        with cluster._keep_signals():
            cluster._connect(str, address="local")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Drained), Drain().listen():
        if place == "here":
            connect()
        else:
            with ThreadPoolExecutor(1) as threads:
                threads.submit(connect).result()
        signal.raise_signal(signal.SIGTERM)


LIBRARY = """
import ctypes, signal
from factory.engine import drain
drain.GRACE, drain.HARD = 0.2, 0.5
with drain.Drain(lambda line: print(line, flush=True)).listen():
    signal.raise_signal(signal.SIGTERM)
    ctypes.CDLL(None).sleep(600)  # takes no signal that Python only notes
"""


def test_a_library_that_hangs_is_not_waited_for():
    command = [sys.executable, "-c", LIBRARY]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("stopped amid a batch that does not end") == 1


def hang_judging(recipe, out):
    """Runs a recipe whose filter hangs, in a thread that nothing can end."""
    forked.write_to(out.with_name("log"))
    drain.HARD = 0.5
    FiniteFilter.score = lambda self, samples, conditions: time.sleep(600)
    run(recipe, out, say=lambda line: print(line, flush=True))


def test_a_second_signal_ends_what_hangs(tmp_path):
    recipe, out = write_recipe(tmp_path, **ONE), tmp_path / "run"
    process = forked.start(hang_judging, recipe, out)
    deadline = time.monotonic() + 60
    while not list(out.glob(".factory/workers/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    assert forked.wait(process, 30) == 3
    assert "stopped amid a batch that does not end" in (tmp_path / "log").read_text()
