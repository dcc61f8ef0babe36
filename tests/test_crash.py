"""SIGKILL at every commit point, for real: resumed equals uninterrupted, none lost, none twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import list_identities, read_rows, run, write_recipe

ROOT = Path(__file__).parent.parent
RECIPE = {
    "conditions": [{"kind": "class", "per_class": {"normal": 6, "tumor": 6}}],
    "output": {"shard_size": 3},
}


def call(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, check=False,
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(folder, **RECIPE)
    assert run(recipe, folder / "run").exit_code == 0
    return recipe, list_identities(folder / "run")


MOMENTS = [
    (1, "before"), (2, "amid"), (3, "before"), (3, "amid"), (4, "before"), (4, "after"),
    (6, "amid"), (9, "after"), (11, "amid"), (12, "before"),
]  # fmt: skip
"""run.json, worker, then data object and marker of each of four shards, then summary and card."""


@pytest.mark.parametrize(("number", "phase"), MOMENTS)
def test_killed_at_a_write_and_resumed(uninterrupted, tmp_path, number, phase):
    recipe, expected = uninterrupted
    out = tmp_path / "run"
    killed = call("-m", "tests.killer", number, phase, "run", recipe, "--out", out)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = call("-m", "factory", "run", recipe, "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    assert list_identities(out) == expected
    assert {row["class_name"] for row in read_rows(out)} == {"normal", "tumor"}


def test_killed_while_generating_and_resumed(uninterrupted, tmp_path):
    """The driver dies by a signal from outside, amid its work, several times over."""
    recipe, expected = uninterrupted
    out = tmp_path / "run"
    arguments = [sys.executable, "-m", "factory", "run", str(recipe), "--out", str(out)]
    for delay in (1.0, 1.6, 2.2):
        process = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = call("-m", "factory", "run", recipe, "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    assert list_identities(out) == expected
