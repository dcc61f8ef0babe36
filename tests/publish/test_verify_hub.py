"""Verifying and regenerating from a data set on the Hub: published, fetched by name, checked."""

import json
from contextlib import ExitStack

import pytest

from tests.commands import open_commands
from tests.hub import open_hub
from tests.publish.test_publish import REPO, build_environment
from tests.running import read_rows, run, write_recipe


@pytest.mark.slow(
    "engine/test_end_to_end.py::test_from_a_recipe_to_rows_that_anybody_can_make_again"
)
def test_a_data_set_on_the_hub_is_fetched_verified_and_made_again(tmp_path):
    run(write_recipe(tmp_path, output={"rows_per_file": 10}), tmp_path / "run")
    with ExitStack() as running:
        hub = running.enter_context(open_hub())
        with open_commands(build_environment(hub, tmp_path / "home")) as factory:
            done = factory("publish", tmp_path / "run", "--repo", REPO, "--tag", "v1")
            assert done.returncode == 0, done.stderr
            done = factory("verify", f"{REPO}@v1", "--regenerate", 5, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            report = json.loads(done.stdout)
            assert report["sound"]
            assert report["checked"]["files"] >= 4
            assert report["checked"]["rows"] == 44
            assert [each["status"] for each in report["regenerated"]] == ["exact"] * 5
            row = read_rows(tmp_path / "run", "rejected")[0]
            out = tmp_path / "again.webp"
            done = factory("regenerate", REPO, row["sample_id"], "--out", out)
            assert done.returncode == 0, done.stderr
            assert "exact" in done.stdout
            assert out.read_bytes() == row["image"]["bytes"]
            missing = factory("verify", "me/nothing")
            assert missing.returncode == 2
            assert "no such data set on the Hub" in missing.stderr
            assert factory("verify", f"{REPO}@v9").returncode == 2
            running.close()  # from here on there is no Hub
            gone = factory("verify", "me/other")
            assert gone.returncode == 3
            assert "cannot be reached" in gone.stderr
