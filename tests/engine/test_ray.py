"""Real local Ray: the same rows as in-process, and no row lost when a worker or the driver dies."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from pydantic import ValidationError

from factory.core.errors import InputError
from factory.engine.dataset import Dataset
from factory.engine.executors import NoWatch, cluster
from factory.engine.executors.sizing import size_cluster
from factory.recipe.recipe import Workers
from tests import ROOT
from tests.running import list_identities, run, write_recipe

RECIPE = {
    "conditions": [{"kind": "class", "per_class": {"normal": 20, "tumor": 20}}],
    "output": {"shard_size": 4},
}
RAY = ["workers.executor=ray", "workers.count=2", "workers.cpus=0.5"]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Ray's workers must find the package and the tests in a checkout that is not installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    write_catalog(folder, 0.0)
    recipe = write_recipe(folder, **RECIPE, catalogs=["catalog"], generator={"model": "slow"})
    assert run(recipe, folder / "run").exit_code == 0
    return list_identities(folder / "run")


def write_catalog(folder, seconds):
    """A catalog whose model is `fake` with a pause for every image."""
    (folder / "catalog" / "models").mkdir(parents=True)
    text = (ROOT / "catalogs" / "models" / "fake.yaml").read_text().replace("id: fake", "id: slow")
    text += f"\npipeline_arguments: {{seconds_per_image: {seconds}}}\n"
    (folder / "catalog" / "models" / "slow.yaml").write_text(text)


def write_slow(folder, seconds):
    write_catalog(folder, seconds)
    return write_recipe(folder, **RECIPE, catalogs=["catalog"], generator={"model": "slow"})


class Watching(NoWatch):
    def __init__(self):
        self.told = []

    def report(self, progress):
        self.told.append(progress)


def find_workers(parent):
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone in the meantime
            if "RayWorker" in " ".join(child.cmdline()[:1]):
                found.append(child)
    return found


@pytest.mark.spine
@pytest.mark.stranger
def test_two_workers_give_the_same_rows(tmp_path, monkeypatch):
    """Ray starts once: its workers fill shards, then others write the files."""
    done, watch, started = [], Watching(), []

    def start(address, start_it=cluster.start_ray):
        heard = cluster.GET_HANDLER(signal.SIGTERM)
        started.append(start_it(address))
        assert cluster.GET_HANDLER(signal.SIGTERM) == heard  # Ray's would abort, however we drain
        return started[-1]

    monkeypatch.setattr(cluster, "start_ray", start)
    few = ["conditions.0.per_class={normal: 8, tumor: 8}", "output.rows_per_file=6"]
    slow, fast = write_slow(tmp_path, 0.3), write_slow(tmp_path / "fast", 0)
    result = run(slow, tmp_path / "run", (), [*few, *RAY], done.append, watch)
    assert result.exit_code == 0
    assert len(done) == 4
    assert len({(each.shard, each.tried) for each in watch.told}) > 2
    assert len(started) == 1 and not started[0].is_ours  # no more
    assert run(fast, tmp_path / "alone", overrides=few).exit_code == 0
    assert list_identities(tmp_path / "run") == list_identities(tmp_path / "alone")
    assert len(result.summary.hashes) == 5
    assert result.summary.hashes == Dataset(str(tmp_path / "alone")).summary.hashes


@pytest.mark.slow("test_two_workers_give_the_same_rows")
def test_killed_workers_lose_nothing(local, tmp_path):
    """A worker dies whenever another shard was committed: at its start, amid work, at a commit."""
    kills = []
    shards = tmp_path / "run" / ".factory" / "shards"

    def kill_again_and_again():
        while len(kills) < 5:
            time.sleep(0.05 * len(kills))
            workers = find_workers(os.getpid())
            if workers and len(list(shards.glob("*.json"))) > len(kills):
                workers[len(kills) % len(workers)].send_signal(signal.SIGKILL)
                kills.append(1)

    killer = threading.Thread(target=kill_again_and_again, daemon=True)
    killer.start()
    patient = [*RAY, "budget.retries=9"]
    result = run(write_slow(tmp_path, 0.2), tmp_path / "run", overrides=patient)
    killer.join(timeout=1)
    assert len(kills) == 5
    assert result.exit_code == 0
    assert list_identities(tmp_path / "run") == local


@pytest.mark.slow("engine/test_crash.py::test_killed_while_generating_and_resumed")
def test_a_killed_driver_resumes(local, tmp_path):
    recipe, out = write_slow(tmp_path, 0.1), tmp_path / "run"
    options = [part for override in RAY for part in ("--set", override)]
    command = [sys.executable, "-m", "factory", "run", str(recipe), "--out", str(out), *options]
    for shards in (1, 4, 7):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while len(list(out.glob(".factory/shards/*-r0.json"))) < shards:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "data").exists()
    assert run(recipe, out, overrides=RAY).exit_code == 0
    assert list_identities(out) == local


@pytest.mark.slow("test_what_no_node_can_hold_is_refused")
def test_a_worker_that_cannot_start_is_bad_input(tmp_path):
    recipe = write_slow(tmp_path, 0)
    (tmp_path / "catalog/models/slow.yaml").write_text(
        (tmp_path / "catalog/models/slow.yaml").read_text().replace("seconds_per", "second_per")
    )
    with pytest.raises(InputError, match="seconds_per_image"):
        run(recipe, tmp_path / "run", overrides=RAY)
    assert not (tmp_path / "run" / ".factory").exists()


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        ({}, [{"CPU": 8, "GPU": 4}], (4, 1.0)),
        ({"cpus": 4}, [{"CPU": 8, "GPU": 4}], (2, 1.0)),
        ({}, [{"CPU": 2}], (2, 0.0)),
        ({"gpus": 0.5, "cpus": 1}, [{"CPU": 8, "GPU": 1}], (2, 0.5)),
        ({"cpus": 0.3}, [{"CPU": 0.9}], (3, 0.0)),
        ({"cpus": 2}, [{"CPU": 3}, {"CPU": 3}], (2, 0.0)),
        ({}, [{"CPU": 4}, {"CPU": 2, "GPU": 2}], (2, 1.0)),
        ({"count": 2}, [{"CPU": 1}, {"CPU": 1}], (2, 0.0)),
        ({"resources": {"big": 0.5}}, [{"CPU": 8, "big": 1}, {"CPU": 8}], (2, 0.0)),
    ],
)
def test_cluster_sizing(workers, nodes, expected):
    assert size_cluster(Workers(**workers), nodes) == expected


@pytest.mark.stranger
def test_what_no_node_can_hold_is_refused():
    nodes = [{"CPU": 2}, {"CPU": 2}]
    with pytest.raises(InputError, match=r"no node can hold one: asked for 1 worker with 3 CPUs"):
        size_cluster(Workers(count=1, cpus=3), nodes)
    with pytest.raises(InputError, match=r"no node can hold one"):
        size_cluster(Workers(cpus=3), nodes)
    with pytest.raises(InputError, match=r"3 workers .* do not fit: the 2 nodes hold 2"):
        size_cluster(Workers(count=3, cpus=2), nodes)
    assert size_cluster(Workers(count=3, cpus=3), nodes, grows=True) == (3, 0.0)
    assert size_cluster(Workers(cpus=3), nodes, grows=True) == (1, 0.0)
    assert size_cluster(Workers(cpus=2), nodes, grows=True) == (3, 0.0)
    with pytest.raises(InputError, match=r"3 CPUs and 0 GPUs and 1 big; the largest .* and 0 big"):
        size_cluster(Workers(cpus=3, resources={"big": 1}), nodes)
    with pytest.raises(ValidationError, match=r"GPU is not a further resource: .* workers\.gpus"):
        Workers(resources={"GPU": 1})


def test_more_workers_than_fit_are_refused():
    with pytest.raises(InputError, match=r"do not fit: this machine holds 2"):
        size_cluster(Workers(count=3), [{"CPU": 2}])
