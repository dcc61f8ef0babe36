"""One Ray for all of a run: it starts when it is first needed, once, and ends with the run."""

import threading
import time

import pytest

from factory.core.errors import InputError, RunBrokenError
from factory.engine.executors import cluster, machines
from factory.engine.executors.machines import open_machines
from factory.recipe.recipe import Workers


class Started:
    """A Ray that starts when it may, and notes who started it."""

    def __init__(self):
        self.may, self.threads, self.closed = threading.Event(), [], 0

    def start(self, address):
        self.threads.append(threading.current_thread())
        assert self.may.wait(10)
        return self

    def close(self):
        self.closed += 1
        assert self.threads[0].is_alive()  # Linux kills Ray's processes with that thread


@pytest.fixture
def ray(monkeypatch):
    found = Started()
    monkeypatch.setattr(cluster, "start_ray", found.start)
    return found


def test_ray_starts_once_beside_what_is_done_meanwhile(ray):
    with open_machines(Workers(executor="ray")) as opened:
        opened.begin()
        opened.begin()
        ray.may.set()
        assert opened.connect() is opened.connect() is ray
        opened.begin()
    assert (len(ray.threads), ray.closed) == (1, 1)
    assert ray.threads[0] is not threading.current_thread()
    ray.threads[0].join(10)
    assert not ray.threads[0].is_alive()


def test_what_nobody_asks_for_does_not_start_and_what_is_asked_for_starts_here(ray):
    with open_machines(Workers(executor="ray")):
        pass
    assert ray.threads == []
    ray.may.set()
    with open_machines(Workers(executor="ray")) as opened:
        assert opened.connect() is ray
    assert ray.threads == [threading.current_thread()]


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_ray_that_starts_yet_holds_up_no_end_and_ends_itself(is_interrupted, ray, monkeypatch):
    """On a busy machine SIGTERM was answered 36 s later, when Ray had started to be ended."""
    if is_interrupted:  # a second signal

        def interrupt(futures, timeout):
            raise KeyboardInterrupt

        monkeypatch.setattr(machines, "wait", interrupt)
    monkeypatch.setattr(machines, "PATIENCE", 0.01)
    error = KeyboardInterrupt if is_interrupted else InputError
    with pytest.raises(error), open_machines(Workers(executor="ray")) as opened:
        opened.begin()
        raise InputError("a candidate is broken")
    assert ray.closed == 0
    while not ray.threads:
        time.sleep(0.01)
    assert ray.threads[0].daemon  # Python does not wait for it
    ray.may.set()
    ray.threads[0].join(10)
    assert not ray.threads[0].is_alive()
    assert ray.closed == 1


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_ray_that_cannot_start_is_told_where_it_is_asked_for(is_begun, monkeypatch):
    def fail(address):
        raise RunBrokenError(f"nothing answers at {address}")

    monkeypatch.setattr(cluster, "start_ray", fail)
    with open_machines(Workers(executor="ray", address="here:1")) as opened:
        if is_begun:
            opened.begin()
        with pytest.raises(RunBrokenError, match="nothing answers at here:1"):
            opened.connect()
