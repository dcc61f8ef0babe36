"""`budget.stop`: series end where their newest images change nothing, the same however made."""

import hashlib
import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from factory import api
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, MismatchError
from factory.data.images import list_images
from factory.data.shots import make_set
from factory.engine import rounds
from factory.engine.plan import Plan
from factory.engine.run_folder import RunFolder
from factory.engine.stopping import Stopping
from factory.engine.summary import RECIPE
from factory.evaluate.fewshot.leaks import TEST_LEAK
from factory.evaluate.fewshot.providers import FolderProvider
from factory.evaluate.judge_overlap import find_parts, read_making
from factory.models.encoders import load_encoder
from factory.publish.review.watch import Watcher
from factory.recipe.file import load_recipe
from tests import ROOT, forked, killer
from tests.engine.stopping import (
    FINITE,
    Ahead,
    change_first_test,
    change_tests,
    read_ends,
    read_series,
    save_real,
    write_rule,
)
from tests.running import (
    ask,
    call,
    find_problems,
    list_identities,
    read_json,
    read_rows,
    run,
    run_recipe,
    write_recipe,
)

FEW = {"normal": 70, "tumor": 50}


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    stems = [str(number) for number in range(25)]
    return save_real(tmp_path_factory.mktemp("real"), {"normal": stems, "tumor": stems})


def write(folder: Path, real: Path, tolerance: float = 0.08, counts=FEW, **changes) -> Path:
    """A recipe whose series `normal` ends at 40 of 70 by this tolerance; `tumor` goes on."""
    rule = {"when": "fidelity", "every": 20, "images": str(real), "tolerance": tolerance}
    return write_rule(folder, rule, counts, 6, **changes)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, real) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    run(write(folder, real), folder / "run")
    return folder / "run"


def test_series_end_where_the_newest_block_changes_nothing(ended, real, tmp_path):
    ends = read_ends(ended)
    assert ends == {"normal": 40, "tumor": None}
    for part in read_series(ended):
        *went_on, last = part["stop"]["tests"]
        assert part["short"] == 0 and part["accepted"] == (part["stop"]["at"] or part["asked"])
        within = [max(-each["low"], each["high"]) <= 0.08 for each in (*went_on, last)]
        assert within == [each["stops"] for each in (*went_on, last)]
        assert not any(each["stops"] for each in went_on)
    never = write(tmp_path, real, 0.0001)
    assert run(never, tmp_path / "whole").exit_code == 0
    assert read_ends(tmp_path / "whole") == {"normal": None, "tumor": None}
    whole = read_rows(tmp_path / "whole")
    assert len(whole) == sum(FEW.values())
    kept = {(r["sample_id"], r["image_sha256"]) for r in whole}
    assert list_identities(ended) < kept


def test_a_test_reads_what_its_survey_reads_and_its_newest_block(real, tmp_path, monkeypatch):
    read, surveyed, deciding = Counter(), Counter(), []
    read_table, survey_run, walk = RunFolder.read_table, rounds.survey_run, Plan.iterate_shards
    decide = Stopping.decide

    def note_read(folder, marker, columns=None, **others):
        if columns is not None:  # all of them, as it is written
            kinds = (each for each in ("features", "scores", "sample_id") if each in columns)
            read[next(kinds), marker.shard] += 1
        return read_table(folder, marker, columns, **others)

    def note_survey(folder, plan, *others, **named):
        surveyed.update(shard.id for shard in walk(plan))
        return survey_run(folder, plan, *others, **named)

    def note_decision(*given):
        deciding.append(True)
        decide(*given)
        deciding.append(False)

    def refuse_walk(plan):
        assert deciding[-1:] != [True], "a test finds its shards by arithmetic"
        return walk(plan)

    monkeypatch.setattr(RunFolder, "read_table", note_read)
    monkeypatch.setattr(rounds, "survey_run", note_survey)
    monkeypatch.setattr(Stopping, "decide", note_decision)
    monkeypatch.setattr(Plan, "iterate_shards", refuse_walk)
    recipe = write(tmp_path, real, 0.0001, {"normal": 61, "tumor": 41})
    result = run_recipe(load_recipe(recipe), str(tmp_path / "run"))
    assert sum(len(part.stop.tests) for part in result.summary.series) == 3
    assert deciding == 2 * [True, False]
    assert max(surveyed.values()) == 2 + 1  # that of the whole
    for shard, count in surveyed.items():
        assert read["sample_id", shard] == 2 * count  # what is compared, then what is decided by
        assert read["scores", shard] == 0  # as filters said when it was sampled
        assert read["features", shard] <= 2  # one across two blocks


def test_told_in_plan_command_status_card_and_report(real, tmp_path):
    recipe, out = write(tmp_path, real), tmp_path / "run"
    told = ask("plan", recipe, "--no-calibrate")
    assert "normal may end early (budget.stop), after 40 requests or more" in told
    printed = ask("run", recipe, "--out", out)
    end = "normal: ended after 40 of 70 requests (its last test, at 40: "
    assert end in printed and "SHORTFALL" not in printed
    assert "normal: 40 of 70 filled, ended after 40 requests" in ask("status", out)
    card = (out / "README.md").read_text()
    assert end in card and "changes the kernel distance to real images by no more than 8" in card
    assert "Every request up to where its series ended was filled." in card
    ask("report", out)
    assert end in (out / "report.html").read_text()
    assert api.status(out)["finalized"] and Watcher(str(out)).read()["finalized"]
    assert "already complete" in ask("run", recipe, "--out", out)
    again = json.loads(ask("run", recipe, "--out", out, "--json"))
    assert again["asked"] == sum(FEW.values()) and not api.open_dataset(out).unfinished


def test_verify_decides_again_where_series_ended(ended, tmp_path):
    assert api.verify(api.open_dataset(ended)).is_sound
    out = tmp_path / "changed"
    shutil.copytree(ended, out)
    change_first_test(out, "normal", high=0.5)
    failures = api.verify(api.open_dataset(out)).failures
    assert any("the test at 40 ends it, which its figures do not say" in str(f) for f in failures)
    change_tests(out, lambda tests: tests[0].update(sample="0" * 64))
    failures = api.verify(api.open_dataset(out)).failures
    assert any("the test at 40 saw other images" in str(each) for each in failures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tests: tests[0].update(at=41), "do not follow each other"),
        (lambda tests: tests[0].update(at=0), "do not follow each other"),
        (lambda tests: tests.append(tests[0]), "do not follow each other"),
        (lambda tests: tests[0].update(series="abc"), "'abc', which is not asked for"),
        (lambda tests: tests[0].update(stops=not tests[0]["stops"]), "do not say how it went on"),
        (lambda tests: tests[0].update(high=float("nan")), "do not say how it went on"),
    ],
)
def test_tests_that_no_run_leaves_are_told_and_made_anew(ended, real, tmp_path, change, words):
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    change_tests(out, change)
    assert any(words in str(each) for each in api.verify(api.open_dataset(out)).failures)
    told = run_again(write(tmp_path, real), out)
    assert any(words in line and "all are tested anew" in line for line in told)
    assert list_identities(out) == list_identities(ended)
    assert (
        read_json(out / ".factory" / "run.json")["stop"]
        == read_json(ended / ".factory" / "run.json")["stop"]
    )
    assert api.verify(api.open_dataset(out)).is_sound


def test_other_figures_in_the_run_record_than_in_the_summary_are_told(ended, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    change_tests(out, lambda tests: tests[0].update(high=tests[0]["high"] - 0.001))
    failures = api.verify(api.open_dataset(out)).failures
    assert any("are not those of .factory/run.json" in str(each) for each in failures)


@pytest.mark.parametrize("size", [3, 16])
def test_workers_at_once_change_nothing_and_what_they_made_beyond_is_counted(
    ended, real, tmp_path, monkeypatch, size
):
    monkeypatch.setattr("factory.engine.executors.local.LocalPool", Ahead)
    recipe, out = write(tmp_path, real, output={"shard_size": size}), tmp_path / "run"
    told: list[str] = []
    run(recipe, out, say=told.append)
    assert list_identities(out) == list_identities(ended)
    summary = read_json(out / "summary.json")
    beyond = sum(part["stop"]["beyond"] for part in summary["series"])
    assert beyond > 0
    rows = [*read_rows(out), *read_rows(out, "rejected")]
    assert len(rows) == summary["generated"]
    assert "candidates made beyond that are left out" in (out / "README.md").read_text()
    assert api.status(out)["finalized"] and Watcher(str(out)).read()["finalized"]
    assert api.verify(api.open_dataset(out)).is_sound
    assert any("already complete" in line for line in run_again(recipe, out))


@pytest.mark.slow("test_workers_at_once_change_nothing_and_what_they_made_beyond_is_counted")
def test_two_workers_of_ray_end_series_where_one_does(ended, real, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    two = ["workers.executor=ray", "workers.count=2", "workers.cpus=0.5"]
    run(write(tmp_path, real), tmp_path / "run", overrides=two)
    assert list_identities(tmp_path / "run") == list_identities(ended)
    assert read_ends(tmp_path / "run") == read_ends(ended)


def run_again(recipe: Path, out: Path) -> list[str]:
    told: list[str] = []
    run(recipe, out, say=told.append)
    return told


def test_near_duplicates_are_topped_up_before_a_test(real, tmp_path, monkeypatch):
    """Requests that lose their image to one before them go on before the block is tested."""
    counts = {"normal": 45}
    changes = {"filters": [], "dedup": {"max_similarity": 0.33}, "counts": counts}
    one = write(tmp_path / "a", real, 0.5, **changes)
    run(one, tmp_path / "one")
    rejected = read_series(tmp_path / "one")[0]["rejected"]
    assert rejected["near_duplicate"] > 0
    monkeypatch.setattr("factory.engine.executors.local.LocalPool", Ahead)
    other = write(tmp_path / "b", real, 0.5, **changes, output={"shard_size": 5})
    run(other, tmp_path / "other")
    assert list_identities(tmp_path / "one") == list_identities(tmp_path / "other")
    assert api.verify(api.open_dataset(tmp_path / "other")).is_sound


SHORT = {"normal": 50, "tumor": 45}
MOMENTS = [(14, "before"), (15, "after")]
"""Amid the shards of the first test, and at the record of what it found."""
FURTHER = [(1, "after"), (6, "amid"), (13, "amid"), (14, "amid"), (16, "before"), (20, "amid")]


@pytest.fixture(scope="module")
def short(tmp_path_factory, real):
    folder = tmp_path_factory.mktemp("short")
    recipe = write(folder, real, 0.4, SHORT)
    run(recipe, folder / "run")
    return recipe, list_identities(folder / "run")


@pytest.mark.parametrize(
    ("number", "phase"),
    [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER)],
)
def test_killed_at_a_write_and_resumed(short, tmp_path, number, phase):
    recipe, expected = short
    command = ["run", str(recipe), "--out", str(tmp_path / "run")]
    assert forked.wait(forked.start(killer.run_armed, number, phase, command)) == -signal.SIGKILL
    resumed = call(*command)
    assert resumed.exit_code == 0, resumed.output
    assert list_identities(tmp_path / "run") == expected


def test_interrupted_again_and_again_and_resumed(short, tmp_path):
    recipe, expected = short
    for count in (2, 4, 9):
        ended: list[object] = []

        def stop(outcome, ended=ended, count=count):
            ended.append(outcome)
            if len(ended) == count:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "run", notify=stop)
    assert run(recipe, tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") == expected


def test_refilter_decides_over_what_was_made_and_the_ends_stay(real, tmp_path):
    out = tmp_path / "run"
    run(write(tmp_path, real), out)
    before, ends = list_identities(out), read_ends(out)
    result = call("refilter", out, "--set", "filters.finite.min_contrast=0.15")
    assert result.exit_code == 1 and "SHORTFALL" in result.output  # short of where it ended
    summary = read_json(out / "summary.json")
    assert read_ends(out) == ends
    for part in summary["series"]:
        assert part["short"] == (part["stop"]["at"] or part["asked"]) - part["accepted"]
    assert api.verify(api.open_dataset(out)).is_sound
    ask("refilter", out)
    assert list_identities(out) == before


def test_a_run_that_grows_is_the_run_that_was_larger_at_once(ended, real, tmp_path):
    more = {"normal": 90, "tumor": 80}
    out = tmp_path / "run"
    run(write(tmp_path / "a", real), out)
    run(write(tmp_path / "b", real, counts=more), out, extend=True)
    assert read_ends(out)["normal"] == 40
    run(write(tmp_path / "b", real, counts=more), tmp_path / "whole")
    assert list_identities(out) == list_identities(tmp_path / "whole")
    assert list_identities(out) >= list_identities(ended)


def test_more_attempts_fill_what_was_short_and_all_is_tested_anew(real, tmp_path):
    few, many = ({"counts": SHORT, "budget": {"attempts": n}} for n in (1, 6))
    out, told = tmp_path / "run", []
    assert run(write(tmp_path / "a", real, 0.5, **few), out).exit_code == 1
    recipe = write(tmp_path / "b", real, 0.5, **many)
    run(recipe, out, extend=True, say=told.append)
    assert any("all are tested anew" in line for line in told)
    run(recipe, tmp_path / "whole")
    assert list_identities(out) == list_identities(tmp_path / "whole")
    assert read_ends(out) == read_ends(tmp_path / "whole")


def test_a_shard_that_fails_ends_the_tests_until_it_is_mended(short, tmp_path, monkeypatch):
    from factory.engine.shard import Worker

    recipe, expected = short
    work, failing = Worker.steps, [0]

    def fail(self, task, report, drain, helper):
        if (task.shard.start, task.shard.stop) == (24, 32) and failing[0] < 3:
            failing[0] += 1
            raise OSError("a lens fell off")
        return (yield from work(self, task, report, drain, helper))

    monkeypatch.setattr(Worker, "steps", fail)
    result = run(recipe, tmp_path / "run", overrides=["budget.retries=2"])
    assert result.exit_code == 3
    made = {json.loads(p.read_text())["start"] for p in find_markers(tmp_path / "run")}
    assert max(made) < 60  # what cannot be tested yet is not made
    assert run(recipe, tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") == expected


def find_markers(out: Path) -> list[Path]:
    return sorted((out / ".factory" / "shards").glob("*.json"))


def test_other_real_images_or_another_rule_are_refused(real, tmp_path):
    recipe, out = write(tmp_path, real, 0.4, SHORT), tmp_path / "run"
    run(recipe, out)
    with pytest.raises(MismatchError, match=r"budget\.stop\.tolerance: 0\.4 -> 0\.3"):
        run(write(tmp_path, real, 0.3, SHORT), out)
    other = tmp_path / "real"
    for path in real.rglob("*.png"):
        if path.stem != "3":
            (other / path.parent.name).mkdir(parents=True, exist_ok=True)
            (other / path.parent.name / path.name).write_bytes(path.read_bytes())
    before = list_identities(out)
    with pytest.raises(MismatchError, match=r"budget\.stop\.images: .* other images"):
        run(write(tmp_path, other, 0.4, SHORT), out)
    assert list_identities(out) == before


def find_stop_problem(path: Path, field: str):
    problem = find_problems(path)[f"budget.stop{field}"]
    assert problem.line is not None
    return problem.message


def test_what_cannot_end_early_is_refused_with_its_line(real, tmp_path):
    def find(field: str, **changes):
        return find_stop_problem(write(tmp_path / str(len(changes)), real, **changes), field)

    assert "no such" in find(".images", stop={"images": str(tmp_path / "none")})
    message = "must be below 35, or remove budget.stop"
    assert message in find(".every", stop={"every": 35})
    assert "nope" in find(".encoder", stop={"encoder": "nope"})
    pick = {"keep": "diverse"}
    assert "remove pick or budget.stop" in find("", pick=pick)
    (tmp_path / "few").mkdir()
    for path in list((real / "tumor").glob("*.png"))[:5]:
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    assert "5 different images are too few" in find(".images", stop={"images": "../few"})
    message = find(".images", stop={"limit": 30})
    assert (
        "15 different images of class 'normal'" in message and "raise budget.stop.limit" in message
    )
    (tmp_path / "other" / "normal").mkdir(parents=True)
    for path in (real / "normal").glob("*.png"):
        (tmp_path / "other" / "normal" / path.name).write_bytes(path.read_bytes())
    assert "has no class 'tumor'" in find(".images", stop={"images": "../other"})


def test_few_real_images_of_a_class_that_nothing_asks_for_are_no_matter(real, tmp_path):
    shutil.copytree(real, tmp_path / "real")
    (tmp_path / "real" / "rare").mkdir()
    Image.new("RGB", (32, 32), "pink").save(tmp_path / "real" / "rare" / "1.png")
    out = tmp_path / "run"
    assert run(write(tmp_path, tmp_path / "real", 0.4, SHORT), out).exit_code == 0
    assert set(read_ends(out).values()) == {40}


def test_tests_that_lack_accepted_images_are_told(real, tmp_path):
    filters, counts = [{"kind": "finite", "min_contrast": 0.9}], {"normal": 45}
    recipe, out = write(tmp_path, real, 0.4, counts, filters=filters), tmp_path / "run"
    told = "went on to all 45 through one test (too few accepted images to test)"
    assert told in ask("run", recipe, "--out", out, "--set", "budget.attempts=1", code=1)
    assert told in (out / "README.md").read_text()


def test_what_only_a_plan_tells_is_refused_by_a_run_as_well(real, tmp_path):
    recipe = write(tmp_path, real, stop={"every": 40})
    with pytest.raises(InputError, match="must be below 35"):
        run_recipe(load_recipe(recipe), str(tmp_path / "run"))


def test_what_a_forgotten_patient_touched_is_made_again_and_tested_anew(real, tmp_path):
    """In between, rows are missing that the tests saw: that is told, and no damage."""
    for path in real.rglob("*.png"):
        copy = tmp_path / "shots" / path.parent.name / f"p{int(path.stem) % 6}_{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    block = {"kind": "reference", "images": str(tmp_path / "shots"), "per_class": 45}
    block |= {"strength": 0.5, "group_pattern": r"(?P<group>p\d)_"}
    recipe = write(tmp_path, real, 0.4, filters=[], conditions=[block])
    out, patient = tmp_path / "run", hashlib.sha256(b"p3").hexdigest()
    run(recipe, out)
    ends = read_ends(out)
    assert set(ends.values()) == {40}
    call("forget", out, "--group", patient, "--no-top-up", "--base", tmp_path)
    found = api.verify(api.open_dataset(out))
    assert found.is_sound and any("forgotten since" in note for note in found.notes)
    told: list[str] = []
    run(recipe, out, say=told.append)
    assert any("all are tested anew" in line for line in told)
    assert len(read_rows(out)) == sum(end or 45 for end in read_ends(out).values())


def test_judging_images_that_are_there_passes_it_over(real, tmp_path):
    told = ask(
        "judge", "--data", real, "--recipe", write(tmp_path, real), "--out", tmp_path / "out"
    )
    assert "50 judged" in told
    assert read_json(tmp_path / "out" / "recipe.json")["budget"]["stop"] is None


def test_its_encoder_is_a_judge(ended):
    catalogs, described = load_catalogs(), load_encoder("color-texture").describe()
    parts = find_parts("color-texture", described, read_making(ended, catalogs), catalogs)
    assert parts == ("stop judged with it",)
    assert read_json(ended / "summary.json")["encoders"][0]["used_by"] == "stop"


def test_test_images_that_ended_series_are_a_leak(ended, real, tmp_path):
    def find(root, test):
        provider = FolderProvider([root], [root], load_catalogs)
        leaks, notes = provider.check([], make_set(str(test), list_images(test)))
        return [each.text for each in leaks if each.mark == TEST_LEAK], notes

    (text,), notes = find(ended, real)
    assert f"{real}, by which budget.stop ends series, and {real} share 50 images" in text
    assert not notes
    (tmp_path / "other").mkdir()
    other = save_real(tmp_path / "other", {"normal": ["a"], "tumor": ["b"]})
    (other / "normal" / "a.png").write_bytes((real / "tumor" / "3.png").read_bytes())
    (text,), _ = find(ended, other)
    assert "share 2 images, such as" in text
    out, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(ended, out)
    shutil.copytree(real, moved)
    for name in (RECIPE, ".factory/run.json"):  # as if the real set had been moved since
        text = (out / name).read_text().replace(str(real), str(tmp_path / "gone"))
        (out / name).write_text(text)
    (text,), _ = find(out, moved)
    assert f"{moved}, by which budget.stop ends series" in text
    found, (note,) = find(out, other)
    assert not found and "it is not known whether test images are among them" in note
    assert "they are not there as they were" in note
    for name in (RECIPE, ".factory/run.json"):  # as if its recipe lay beside it
        text = (out / name).read_text().replace(str(tmp_path / "gone"), "../moved")
        (out / name).write_text(text)
    (text,), notes = find(out, other)
    assert f"{moved}, by which" in text and "share 2 images" in text and not notes
    (moved / "normal" / "0.png").unlink()  # no longer those that were looked at
    (text,), _ = find(out, other)
    assert "share 2 images" in text
    shutil.rmtree(out / ".factory")  # a copy
    (text,), _ = find(out, other)
    assert "share 2 images" in text
    shutil.rmtree(moved)
    found, (note,) = find(out, other)
    assert not found and "no record of a run lies there" in note


def test_without_it_nothing_changes(tmp_path):
    run(write_recipe(tmp_path, filters=FINITE), tmp_path / "out")
    summary = read_json(tmp_path / "out" / "summary.json")
    assert "stop" not in summary and "stop" not in summary["series"][0]
    assert "stop" not in read_json(tmp_path / "out" / ".factory" / "run.json")
