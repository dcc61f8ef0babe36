"""`factory tune` on Ray Tune: killed it leaves no process, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from factory.engine.executors import watchdog
from tests import ROOT
from tests.evaluate.test_evaluate_fewshot import write_images
from tests.evaluate.test_tune import CLASSIFIER, REFERENCE, write_space
from tests.running import read_json, write_recipe

WAIT = 180


def find_marked(token):
    """Returns the processes that carry the mark of a Ray of ours."""
    return [each for each in watchdog.list_processes(token) if each.is_running()]


def find_token(parent):
    """Returns the mark of the Ray that a process started."""
    for child in psutil.Process(parent).children(recursive=True):
        words = child.cmdline()
        if any(word.endswith("watchdog.py") for word in words):
            return words[-2]
    return None


def wait_until(holds):
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow("evaluate/test_tune.py::test_stopped_it_goes_on_and_measures_nothing_twice")
def test_killed_it_leaves_nothing_and_goes_on(tmp_path):
    write_images(tmp_path / "real", 6, 1)
    recipe = write_recipe(
        tmp_path / "recipe", conditions=[{**REFERENCE, "shots": 4}], filters=[CLASSIFIER]
    )
    space = write_space(tmp_path, strength=[0.3, 0.9], filter=["none", 0.6], per_class=[2, 4])
    words = ["tune", recipe, "--real", tmp_path / "real", "--out", tmp_path / "best.yaml"]
    words += ["--features", "color-texture", "--filter-encoder", "color-texture", "--size", "32"]
    words += ["--repeats", "1", "--folds", "2", "--budget", "10m", *space, "--json"]
    command = [sys.executable, "-m", "factory", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folds = tmp_path / "best-tune" / "folds" / "cells"

    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    wait_until(lambda: len(list(folds.glob("*.json"))) >= 2)
    token = find_token(process.pid)
    assert token and find_marked(token)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not find_marked(token))

    before = {path: path.stat().st_mtime_ns for path in folds.glob("*.json")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert before.items() <= {p: p.stat().st_mtime_ns for p in folds.glob("*.json")}.items()
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["planned"] == 8
    assert found["states"]["measured"] + found["states"]["stopped early"] == 8
    assert done.stdout.decode().lstrip().startswith("{"), "nothing but JSON is printed"
