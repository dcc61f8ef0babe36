"""Progress of a run: by batches, per class, from this start's own speed."""

import os
import re
import signal
import time

import pytest

from factory.cli.progress import RunProgress, describe_seconds
from factory.cli.tally import Tally
from factory.data.records import Progress, Shard
from factory.engine.executors import Outcome
from factory.engine.run import plan_recipe
from factory.engine.run_folder import Marker
from factory.engine.task import Task
from factory.recipe.file import load_recipe
from tests import ROOT, forked
from tests.running import DEDUP, FILTERS, list_identities, read_json, run, run_recipe, write_recipe


def make_outcome(key, filled, tried, asked=64, start=0, is_new=True):
    shard = Shard(key, start, start + asked)
    marker = Marker(
        shard=shard.id, series=key, start=start, stop=start + asked, data="", sha256="", bytes=0,
        rows=tried, asked=asked, filled=filled, generated=tried, rejected={}, reasons={},
        worker="", seconds={},
    )  # fmt: skip
    return Outcome(Task(shard), marker, is_new=is_new)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.stranger
def test_a_small_run_moves_with_every_batch(tmp_path, capsys):
    changes = {
        "conditions": [{"kind": "class", "per_class": {"normal": 24, "tumor": 24}}],
        "output": {"shard_size": 64},
    }
    loaded = load_recipe(write_recipe(tmp_path, **changes))
    plan = plan_recipe(loaded)
    seen = []

    class Watching(RunProgress):
        def report(self, progress):
            super().report(progress)
            seen.append((progress.shard.series, self.tally.count_all().filled))

    with Watching(plan, 8) as progress:
        result = run_recipe(
            loaded, str(tmp_path / "run"), progress.notify, progress.say, False, plan, progress
        )
    assert len(seen) >= 2 + 2 * 24 / 4
    assert len({key for key, _ in seen}) == 2
    assert len({filled for _, filled in seen}) >= 10
    for part in result.summary.series:
        key = next(each.key for each in plan.series if each.label == part.label)
        assert progress.tally.count(key).filled == part.accepted
    assert "48/48 (normal 24/24" in capsys.readouterr().err


@pytest.mark.stranger
def test_spare_candidates_do_not_count_as_accepted():
    tally = Tally({"a": 320, "b": 80}, attempts=5)
    tally.notify(make_outcome("a", 320, 400, asked=320))
    tally.notify(make_outcome("b", 80, 272, asked=80))
    both, a, b = tally.count_all(), tally.count("a"), tally.count("b")
    assert both.filled / both.tried == pytest.approx(400 / 672)
    assert (a.filled / a.tried, b.filled / b.tried) == pytest.approx((0.8, 80 / 272))


@pytest.mark.stranger
def test_time_left_is_of_this_start():
    clock = Clock()
    tally = Tally({"a": 1000}, attempts=5, clock=clock)
    tally.notify(make_outcome("a", 900, 1800, asked=900, is_new=False))
    assert tally.estimate_left() is None
    clock.now = 60.0  # models load
    tally.report(Progress(Shard("a", 900, 1000), 0, asked=100, tried=10, filled=5, given_up=0))
    clock.now = 70.0
    tally.report(Progress(Shard("a", 900, 1000), 0, asked=100, tried=20, filled=10, given_up=0))
    assert tally.estimate_left() == pytest.approx(90 * 2 / 1.0, rel=0.01)


def test_a_shard_that_is_tried_again_is_counted_once():
    tally = Tally({"a": 64}, attempts=5)
    shard = Shard("a", 0, 64)
    tally.report(Progress(shard, 0, asked=64, tried=60, filled=40, given_up=0))
    tally.report(Progress(shard, 0, asked=64, tried=4, filled=2, given_up=0))
    assert (tally.count("a").tried, tally.count("a").filled) == (4, 2)
    tally.notify(make_outcome("a", 60, 90))
    assert (tally.count("a").tried, tally.count("a").filled) == (90, 60)
    assert tally.count("a").given_up == 4
    assert tally.estimate_left() == 0


def test_the_first_batch_tells_the_time():
    clock = Clock()
    tally = Tally({"a": 64}, attempts=5, clock=clock)
    clock.now = 30.0  # models load
    shard = Shard("a", 0, 64)
    tally.report(Progress(shard, 0, asked=64, tried=0, filled=0, given_up=0))
    assert tally.estimate_left() is None
    clock.now = 38.0
    tally.report(Progress(shard, 0, asked=64, tried=16, filled=16, given_up=0))
    assert tally.estimate_left() == pytest.approx(24.0)


def test_requests_that_lost_their_image_go_on():
    tally = Tally({"a": 64}, attempts=5)
    tally.notify(make_outcome("a", 62, 90))
    tally.recount({"a": 50}, {"a": 12})
    assert (tally.count("a").filled, tally.count("a").given_up) == (50, 2)
    tally.report(Progress(Shard("a", 0, 64), 1, asked=12, tried=12, filled=6, given_up=0))
    assert tally.count("a").filled == 56


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds, text):
    assert describe_seconds(seconds) == text


@pytest.mark.stranger
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_what_is_kept(tmp_path, number):
    (tmp_path / "catalog" / "models").mkdir(parents=True)
    text = (ROOT / "catalogs/models/fake.yaml").read_text().replace("id: fake", "id: slow")
    text += "\npipeline_arguments: {seconds_per_image: 0.05}\n"
    (tmp_path / "catalog/models/slow.yaml").write_text(text)
    recipe = write_recipe(tmp_path, catalogs=["catalog"], generator={"model": "slow"})
    out = tmp_path / "run"
    log = tmp_path / "log"
    process = forked.start_command(["run", str(recipe), "--out", str(out)], log)
    deadline = time.monotonic() + 60
    while len(list(out.glob(".factory/shards/*.json"))) < 2:  # so that the first was told of
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)
    code, said = forked.wait(process), log.read_text()
    assert code == 3, said
    kept = re.search(r"stopped: (\d+) of 23 images are kept", said)
    assert kept and 1 <= int(kept[1]) < 23, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert run(recipe, out).exit_code == 0
    whole = write_recipe(tmp_path / "whole", filters=FILTERS, dedup=DEDUP)
    assert run(whole, tmp_path / "whole" / "run").exit_code == 0
    assert len(list_identities(out)) == read_json(out / "summary.json")["accepted"] == 23
