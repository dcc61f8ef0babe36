"""One Ray for all of a run: it starts when it is first needed, once, and ends with the run."""

import threading

import pytest

from factory.core.errors import RunBrokenError
from factory.engine.executors import cluster
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
    with open_machines(Workers(executor="ray")) as machines:
        machines.begin()
        machines.begin()
        ray.may.set()
        assert machines.connect() is machines.connect() is ray
        machines.begin()
    assert (len(ray.threads), ray.closed) == (1, 1)
    assert ray.threads[0] is not threading.current_thread()
    ray.threads[0].join(10)
    assert not ray.threads[0].is_alive()


def test_what_nobody_asks_for_does_not_start_and_what_is_asked_for_starts_here(ray):
    with open_machines(Workers(executor="ray")):
        pass
    assert ray.threads == []
    ray.may.set()
    with open_machines(Workers(executor="ray")) as machines:
        assert machines.connect() is ray
    assert ray.threads == [threading.current_thread()]


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_ray_that_cannot_start_is_told_where_it_is_asked_for(is_begun, monkeypatch):
    def fail(address):
        raise RunBrokenError(f"nothing answers at {address}")

    monkeypatch.setattr(cluster, "start_ray", fail)
    with open_machines(Workers(executor="ray", address="here:1")) as machines:
        if is_begun:
            machines.begin()
        with pytest.raises(RunBrokenError, match="nothing answers at here:1"):
            machines.connect()
