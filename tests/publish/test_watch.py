"""`factory status --web`: what a page tells of a run that goes on, read from its folder alone."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

import factory
from factory.core.errors import InputError, MismatchError
from factory.engine.run_folder import RunFolder
from factory.publish.review.server import read_page
from factory.publish.review.watch import Watcher
from tests import forked
from tests.browser import open_browsers
from tests.publish.test_review import Client, Labels, wait_for_link
from tests.running import call, read_json, read_rows, run, write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    run(write_recipe(folder), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def list_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_told_as_status_and_summary_tell_it(folder):
    before, told = list_files(folder), Watcher(str(folder)).read()
    status, summary = factory.status(folder), read_json(folder / "summary.json")
    assert told["finalized"] and told["holder"] is None and told["left"] is None
    assert (told["done"], told["shards"]) == (status["done"], status["shards"])
    assert told["accepted"] == summary["accepted"] == 23 and told["asked"] == 23
    assert told["generated"] == summary["generated"]
    assert {part["label"]: part["accepted"] for part in told["series"]} == {
        part["label"]: part["accepted"] for part in summary["series"]
    }
    assert sum(told["rejected"].values()) == sum(status["rejected"].values())
    (worker,) = told["workers"]
    assert (worker["model"], worker["device"], worker["images"]) == (
        "fake",
        "cpu",
        told["generated"],
    )
    assert list_files(folder) == before


def test_newest_images_are_those_of_the_rows_and_no_others(folder):
    watcher = Watcher(str(folder))
    told = watcher.read()["newest"]
    rows = {
        row["sample_id"]: row for part in ("data", "rejected") for row in read_rows(folder, part)
    }
    assert len(told) == 12
    for each in told:
        assert watcher.read_image(each["id"])[0] == rows[each["id"]]["image"]["bytes"]
    other = next(name for name in rows if name not in {each["id"] for each in told})
    with pytest.raises(InputError, match="among the newest"):
        watcher.read_image(other)


def test_a_run_that_goes_on_is_told_with_speed_and_time_left(folder):
    """As it is half way: some markers are gone, and a command holds the folder."""
    for path in sorted((folder / ".factory" / "shards").glob("*.json"))[::2]:
        path.unlink()
    (folder / "summary.json").unlink()
    with RunFolder(str(folder)).hold("run"):
        for path in (folder / ".factory" / "shards").glob("*.json"):
            path.touch()
        watcher = Watcher(str(folder), clock=lambda: time.time() + 60)
        told = watcher.read()
        assert re.match(r"factory run, process \d+ on ", told["holder"])
        assert 0 < told["done"] < told["shards"] and not told["finalized"]
        assert told["speed"] == pytest.approx(told["generated"] / 60, rel=0.05)
        settled = sum(part["settled"] for part in told["series"])
        expected = (23 - settled) * told["generated"] / settled / told["speed"]
        assert told["left"] == pytest.approx(expected, rel=0.35)
        assert watcher.read()["done"] == told["done"]
    assert Watcher(str(folder)).read()["speed"] is None


def test_rounds_of_topping_up_are_seen_and_its_images_stay_while_it_reads(tmp_path):
    near = {"filters": [], "dedup": {"max_similarity": 0.2}}
    run(write_recipe(tmp_path, **near), tmp_path / "run")
    work, aside = tmp_path / "run" / ".factory" / "shards", tmp_path / "aside"
    aside.mkdir()
    later = [path for path in work.glob("*.json") if not path.stem.endswith("-r0")]
    assert later
    for path in (*later, tmp_path / "run" / "summary.json"):
        path.rename(aside / path.name)
    watcher = Watcher(str(tmp_path / "run"))
    first = watcher.read()["newest"][0]["id"]
    for path in later:
        (aside / path.name).rename(path)
    (aside / "summary.json").rename(tmp_path / "run" / "summary.json")
    read_table = watcher.folder.read_table

    def read_slowly(*given):
        assert watcher.read_image(first)[0]  # another page
        return read_table(*given)

    watcher.folder.read_table = read_slowly
    told = watcher.read()
    assert told["finalized"], told["unfinished"]
    assert told["generated"] == read_json(tmp_path / "run" / "summary.json")["generated"]


def test_a_folder_that_is_no_run_is_refused(tmp_path, folder):
    with pytest.raises(MismatchError):
        Watcher(str(tmp_path))
    assert call("status", tmp_path, "--web").exit_code == 2
    assert "only with --web" in call("status", folder, "--port", 80).output


def test_the_command_serves_the_page_behind_its_token(folder, tmp_path):
    process = forked.start_command(["status", str(folder), "--web"], tmp_path / "log")
    client = Client(wait_for_link(tmp_path / "log"))
    assert client.ask("/api/watch", Cookie=None)[0] == 403
    told = json.loads(client.ask("/api/watch")[2])
    assert told["accepted"] == 23
    status, headers, body = client.ask(f"/newest/{told['newest'][0]['id']}")
    assert (status, headers["Content-Type"]) == (200, "image/webp") and body
    assert client.ask(f"/newest/{'0' * 32}")[0] == 400
    assert b"<html" in client.ask("/")[2] and client.ask("/api/reading")[0] == 404
    process.terminate()
    assert forked.wait(process) == 0


def test_the_page_names_its_parts_and_fetches_nothing():
    found = Labels(read_page("watch.html"))
    assert len(set(found.ids)) == len(found.ids)
    for name in ("watch.html", "watch.js"):
        assert not re.search(r"https?:|//cdn|innerHTML|insertAdjacent", read_page(name))


@pytest.mark.slow("test_the_command_serves_the_page_behind_its_token")
def test_the_page_in_a_real_browser(folder, tmp_path):
    server = factory.watch(folder)
    assert server.watch is not None and server.newest is not None
    server.newest(server.watch()["newest"][0]["id"])  # what it imports first takes a while
    with open_browsers() as launch:
        browser = launch(tmp_path / "profile")
        page, faults = browser.pages[0], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text))
        page.goto(server.url)
        page.wait_for_selector("#newest img >> nth=11")
        there = "[...document.images].every((each) => each.naturalWidth === 32)"
        page.wait_for_function(there)
        assert page.inner_text("#accepted") == "23 of 23"
        assert page.inner_text("#state") == "finished"
        assert "normal" in page.inner_text("#series")
        browser.close()
    server.close()
    assert not faults
