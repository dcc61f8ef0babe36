"""SIGKILL at every commit point, for real: resumed equals uninterrupted, none lost, none twice."""

import signal
import time

import pytest

from tests import forked, killer
from tests.running import call, list_identities, read_rows, run, write_recipe

RECIPE = {
    "conditions": [{"kind": "class", "per_class": {"normal": 6, "tumor": 6}}],
    "output": {"shard_size": 3},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(folder, **RECIPE)
    assert run(recipe, folder / "run").exit_code == 0
    return recipe, list_identities(folder / "run")


MOMENTS = [(3, "before"), (3, "amid"), (4, "before"), (9, "after"), (12, "before")]
"""run.json, worker, then data object and marker of each of four shards, then summary and card."""
FURTHER = [(1, "before"), (2, "amid"), (4, "after"), (6, "amid"), (11, "amid")]


@pytest.mark.parametrize(
    ("number", "phase"),
    [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER)],
)
def test_killed_at_a_write_and_resumed(uninterrupted, tmp_path, number, phase):
    recipe, expected = uninterrupted
    out = tmp_path / "run"
    command = ["run", str(recipe), "--out", str(out)]
    assert forked.wait(forked.start(killer.run_armed, number, phase, command)) == -signal.SIGKILL
    resumed = call(*command)
    assert resumed.exit_code == 0, resumed.output
    assert list_identities(out) == expected
    assert {row["class_name"] for row in read_rows(out)} == {"normal", "tumor"}


def test_killed_while_generating_and_resumed(uninterrupted, tmp_path):
    """The driver dies by a signal from outside, amid its work, several times over."""
    recipe, expected = uninterrupted
    out = tmp_path / "run"
    command = ["run", str(recipe), "--out", str(out)]
    for delay in (0.1, 0.3, 0.5):
        process = forked.start_command(command)
        deadline = time.monotonic() + 60
        while not (out / ".factory").is_dir():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.join()
    resumed = call(*command)
    assert resumed.exit_code == 0, resumed.output
    assert list_identities(out) == expected
