"""Verifying and regenerating from a data set on the Hub: published, fetched by name, checked."""

import json

from tests.hub import open_hub
from tests.publish.test_publish import REPO, build_environment, call
from tests.running import read_rows, run, write_recipe


def test_a_data_set_on_the_hub_is_fetched_verified_and_made_again(tmp_path):
    run(write_recipe(tmp_path, output={"rows_per_file": 10}), tmp_path / "run")
    with open_hub() as hub:
        environment = build_environment(hub, tmp_path / "home")

        def factory(*arguments):
            return call(["-m", "factory", *map(str, arguments)], environment)

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
    gone = factory("verify", "me/other")
    assert gone.returncode == 3
    assert "cannot be reached" in gone.stderr
