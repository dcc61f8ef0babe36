"""Ray with real processes: two nodes, busy or dead clusters, and nothing that outlives us."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from factory.core.errors import InputError, RunBrokenError
from factory.data.records import Progress, Shard
from factory.engine.drain import Drain, Drained
from factory.engine.executors import address as addresses
from factory.engine.executors import pulse, sizing, watchdog
from factory.engine.executors import ray as ray_actors
from factory.engine.executors.address import check_address
from factory.engine.executors.cluster import start_ray
from factory.engine.executors.machines import HERE
from factory.engine.task import Task
from factory.recipe.recipe import Workers
from tests import ROOT
from tests.engine.test_ray import RAY, environment, find_workers, local, write_slow
from tests.running import list_identities, run

__all__ = ["environment", "local"]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
IMPATIENT = (
    "from factory.engine.executors import cluster, pulse, ray, sizing; "
    "pulse.WORD_AFTER = sizing.JOIN = ray.RESIZE = 1.0; "
    "cluster.HEAD_LOST = cluster.HEAD_EVERY = 2.0; from factory.cli import main; main()"
)
"""The command line with short waits."""


def start(recipe, out, overrides, code=IMPATIENT, **variables):
    options = [part for override in overrides for part in ("--set", override)]
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", str(recipe), "--out", str(out), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(out, count, process=None):
    deadline = time.monotonic() + 120
    while len(list(out.glob(".factory/shards/*-r0.json"))) < count:
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.1)


# --- a cluster of two nodes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow("engine/test_ray.py::test_more_workers_than_fit_are_refused")
@pytest.mark.stranger
def test_a_busy_cluster_is_refused_with_words(nodes, tmp_path):
    import ray

    @ray.remote(num_cpus=1)
    class Other:
        def work(self):
            return os.getpid()

    ray.init(address=nodes.address, log_to_driver=False, namespace="others")
    try:
        others = [Other.remote() for _ in range(2)]
        ray.get([other.work.remote() for other in others])
        busy = ["workers.executor=ray", "workers.count=1", "workers.wait=6"]
        process = start(write_slow(tmp_path, 0), tmp_path / "run", busy, RAY_ADDRESS=nodes.address)
        said = process.communicate(timeout=120)[1]
    finally:
        ray.shutdown()
    assert process.returncode == 3, said
    asked = r"asked for 1 worker with 1 CPUs and 0 GPUs; free are 0 CPUs .* of 2 CPUs .* on 2 nodes"
    assert re.search(rf"no worker has started after \d+ s: {asked}", said), said
    assert re.search(rf"error: no worker could start in 6 s: {asked}.*workers\.wait", said), said
    assert "Traceback" not in said


@pytest.mark.slow("engine/test_ray.py::test_what_no_node_can_hold_is_refused")
@pytest.mark.stranger
def test_a_cluster_of_nodes_that_are_too_small_is_bad_input(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(sizing, "JOIN", 1.0)
    large = ["workers.executor=ray", "workers.cpus=2", f"workers.address={nodes.address}"]
    with pytest.raises(InputError, match="no node can hold one: asked for 1 worker with 2 CPUs"):
        run(write_slow(tmp_path, 0), tmp_path / "run", (), large)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


@pytest.mark.slow("engine/test_ray.py::test_two_workers_give_the_same_rows")
@pytest.mark.stranger
def test_a_node_that_dies_loses_nothing(nodes, local, tmp_path):
    one = [*RAY[:2], "workers.cpus=1", f"workers.address={nodes.address}", "budget.retries=9"]
    process = start(write_slow(tmp_path, 0.3), tmp_path / "run", one)
    wait_for_shards(tmp_path / "run", 2, process)
    nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert list_identities(tmp_path / "run") == local


NOTED = """
from ray._private.services import get_ray_address_from_environment
print("noted", get_ray_address_from_environment("auto", None))
import ray
from factory.engine.executors.cluster import start_ray
cluster = start_ray()
print("nodes", len(ray.nodes()), ray.nodes()[0]["NodeManagerAddress"])
cluster.close()
"""


@pytest.mark.slow("test_a_dead_address_ends_soon")
@pytest.mark.stranger
def test_a_noted_cluster_is_not_joined_unasked(nodes):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    said = subprocess.run(
        [sys.executable, "-c", NOTED], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"noted {nodes.address}" in said
    assert "nodes 1 127.0.0.1" in said


@pytest.mark.slow("test_a_dead_address_ends_soon")
@pytest.mark.stranger
def test_a_cluster_that_loses_its_head_breaks_the_run(nodes, tmp_path):
    one = ["workers.executor=ray", "workers.count=1", f"workers.address={nodes.address}"]
    process = start(write_slow(tmp_path, 1.0), tmp_path / "run", one)
    wait_for_shards(tmp_path / "run", 1, process)
    head = next(each for each in psutil.Process().children() if each.name() == "gcs_server")
    head.kill()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 3, said
    assert re.search(r"error: .*: the head of the cluster has not answered for \d+ s", said), said
    assert "Traceback" not in said


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.stranger
@pytest.mark.parametrize("form", ["{}", "ray://{}"])
@pytest.mark.parametrize("listens", [False, True])
def test_a_dead_address_ends_soon(form, listens, monkeypatch):
    monkeypatch.setattr(addresses, "CONNECT", 4.0)
    monkeypatch.setattr("ray.util.client.worker.INITIAL_TIMEOUT_SEC", 0.5)
    began = time.monotonic()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = form.format(f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(RunBrokenError, match="no Ray answers there") as found:
            start_ray()
    assert time.monotonic() - began < 60
    assert str(found.value).startswith(f"RAY_ADDRESS: {address}: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("address", ["here", "host", "host:", "http://host:8265", "host:99999999"])
def test_an_address_that_is_none_is_bad_input(address):
    with pytest.raises(InputError, match=r"workers.address: got '.*', expected host:port"):
        check_address(address, "workers.address")


# --- a Ray of our own ----------------------------------------------------------------------------


def read_token(process):
    """The mark of the Ray that a driver started, once it has workers."""
    deadline = time.monotonic() + 60
    while True:
        for child in psutil.Process(process.pid).children(recursive=True):
            token = child.environ().get(watchdog.VARIABLE)
            if token and child.name() == "raylet":
                return token
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow("engine/test_ray.py::test_two_workers_give_the_same_rows")
@pytest.mark.stranger
@pytest.mark.parametrize("victim", ["driver", "raylet", "gcs_server"])
def test_nothing_of_our_ray_outlives_us(tmp_path, victim):
    out = tmp_path / "run"
    foreign = {"RAY_ADDRESS": ""}
    process = start(write_slow(tmp_path, 0.3), out, RAY, **foreign)
    wait_for_shards(out, 1, process)
    token = read_token(process)
    ours = watchdog.list_processes(token)
    assert {"raylet", "gcs_server"} <= {each.name() for each in ours}
    listening = [
        (each.name(), connection.laddr.ip)
        for each in [psutil.Process(process.pid), *ours]
        for connection in each.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert {address for _, address in listening} <= LOOPBACK, listening
    if victim == "driver":
        process.kill()
    else:
        next(each for each in ours if each.name() == victim).kill()
    said = process.communicate(timeout=60)[1]
    if victim != "driver":
        assert process.returncode == 3, said
        assert "error: Ray on this machine broke" in said
        assert "Traceback" not in said and len(said) < 4_000, said
    deadline = time.monotonic() + 20
    while watchdog.list_processes(token):
        assert time.monotonic() < deadline, watchdog.list_processes(token)
        time.sleep(0.2)


@pytest.mark.slow("engine/test_drain.py::test_a_stopped_run_keeps_every_batch")
def test_ray_tells_how_a_run_is_and_drains_it(local, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    told, shown = [], {}

    def look(outcome):
        import ray

        told.append(outcome)
        if len(told) != 2:
            return
        port = ray.nodes()[0]["MetricsExportPort"]
        deadline = time.monotonic() + 120
        while shown.get("ray_factory_accepted_total", 0) < 4 * 2:
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
            ours = [line for line in lines if line.startswith("ray_factory_")]
            assert all('run="test"' in line for line in ours)
            shown.update((line.partition("{")[0], float(line.split()[-1])) for line in ours)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Drained):
        run(write_slow(tmp_path, 0.3), tmp_path / "run", (), RAY, look)
    assert shown["ray_factory_workers"] == 2
    assert shown["ray_factory_queued_shards"] >= 1
    made = shown["ray_factory_candidates_total"]
    assert made >= 8
    assert shown["ray_factory_acceptance"] == pytest.approx(8 / made)
    assert 0 < shown["ray_factory_busy_share"] < 1
    left = list((tmp_path / "run/.factory").glob("parts/*.json"))
    assert left or len(told) > 2
    fast = write_slow(tmp_path / "fast", 0)
    assert run(fast, tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") == local


@pytest.mark.slow("test_a_worker_that_makes_no_batch_is_hung")
@pytest.mark.stranger
def test_a_hung_worker_is_replaced(local, tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENCE", 8.0)
    process_ids = []

    def stop_one(outcome):
        if not process_ids:
            worker = find_workers(os.getpid())[0]
            worker.send_signal(signal.SIGSTOP)
            process_ids.append(worker.pid)

    result = run(write_slow(tmp_path, 0.2), tmp_path / "run", (), RAY, stop_one)
    assert result.exit_code == 0
    assert list_identities(tmp_path / "run") == local
    assert process_ids and not psutil.pid_exists(process_ids[0])


def test_a_worker_that_makes_no_batch_is_hung(monkeypatch):
    """A worker may answer and still make nothing; how long that may take depends on its batches."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shard = Shard("a", 0, 4)
    actors = ray_actors._Actors(None, None, Workers(), 0.0)
    actors.busy["worker"] = {"ref": Task(shard)}
    answers = {"begun": Progress(shard, 0, 4, 0, 0, 0), "batch": Progress(shard, 0, 4, 4, 2, 0)}
    monkeypatch.setattr(pulse, "get_answer", answers.get)
    actors.pulse.asked = dict.fromkeys(answers, "worker")
    told = []
    actors.hear("begun", told.append)
    now[0] = ray_actors.FIRST_BATCH
    actors.pulse.heard["worker"] = now[0]
    assert actors.list_hung() == []  # the first batch of all may be slow
    now[0] = 40.0
    actors.hear("batch", told.append)
    assert (actors.longest, told) == (40.0, list(answers.values()))
    now[0] = actors.pulse.heard["worker"] = 40.0 + 20 * 40.0
    assert actors.list_hung() == []
    now[0] = actors.pulse.heard["worker"] = 41.0 + 20 * 40.0
    [(actor, why)] = actors.list_hung()
    assert actor == "worker" and "ended no batch" in why


@pytest.mark.parametrize(("count", "expected"), [("auto", 3), (1, 1)])
def test_nodes_that_join_get_workers(count, expected, monkeypatch):
    """`python -m tests.chaos --only ray_node_killed` does it with real nodes."""
    monkeypatch.setattr(
        ray_actors._Actors, "add", lambda self: self.busy.update({len(self.busy): {}})
    )
    monkeypatch.setattr(ray_actors, "size_now", lambda workers: (3, 0.0))
    monkeypatch.setattr(ray_actors, "RESIZE", -1.0)
    actors = ray_actors._Actors(None, None, Workers(count=count), 0.0, target=1)
    actors.complete()
    assert len(actors.busy) == 1
    ray_actors.RayPool(None, None, print, Drain(), HERE)._resize(actors)
    assert len(actors.busy) == expected
