"""Early rejection: hopeless tries are stopped part-way, recorded, and made again exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory import api
from factory.catalog.vocabulary import SCHEDULERS
from factory.core.errors import RecipeError
from factory.data.records import STOPPED, Condition, Job, Request
from factory.data.streams import Reference
from factory.evaluate.fewshot.synthetic import read_first_attempts
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.early import Early
from factory.recipe.file import load_recipe
from tests.running import ask, read_json, read_rows, run, run_recipe, write_recipe
from tests.tiny import save_tiny

FLOW = [name for name, kind in SCHEDULERS.items() if "flow" in kind.steps]
FINITE = [{"kind": "finite", "min_contrast": 0.1435}]
EARLY = {"at": 0.5, "min": {"contrast": 0.072}, "check": 0.3}
"""Pale images of `fake` have half the contrast: some are stopped that would pass, and otherwise."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("flow", "multi"):
        save_tiny(family, folder / family)
    return folder


def draw_jobs(count: int, reference: Reference | None = None) -> list[Job]:
    more = () if reference is None else (reference,)
    requests = [
        Request("s", number, Condition(("LYM", "TUM")[number % 2], None, *more), number)
        for number in range(count)
    ]
    return [Job(each, 0, each.derive_seed(3, 0)) for each in requests]


def open_model(folder: Path, **settings):
    given = {"steps": 4, "batch_size": 3, "guidance": {"scale": 2.0, "end": 1.0}, **settings}
    return build_generator(GeneratorSettings(model=str(folder), **given), None, Path())


@pytest.mark.parametrize("family", ["flow", "multi"])
@pytest.mark.parametrize("scheduler", FLOW)
def test_what_is_finished_in_other_batches_is_what_one_call_makes(models, family, scheduler):
    """Every scheduler that a family takes: multistep ones hold what they predicted before."""
    generator, jobs = open_model(models / family, scheduler=scheduler), draw_jobs(5)
    whole = generator.generate(jobs)
    begun = generator.begin(jobs, 0.5)
    order = [4, 1, 2, 0]
    for _ in range(2):  # what is begun may be finished again, as after a full device
        finished = generator.finish([begun[row] for row in order])
        for row, sample in zip(order, finished, strict=True):
            assert np.array_equal(sample.pixels, whole[row].pixels)
            assert sample.notes == whole[row].notes
    assert any(
        not np.array_equal(each.foreseen.pixels, one.pixels)
        for each, one in zip(begun, whole, strict=True)
    )


@pytest.mark.parametrize("scheduler", FLOW[:2])
def test_what_is_looked_at_on_its_way_is_what_was_begun_so_far(models, scheduler):
    generator, jobs = open_model(models / "flow", scheduler=scheduler), draw_jobs(5)
    begun = generator.begin(jobs, 0.25)
    for until in (0.3, 0.5, 0.6, 0.75):  # of four steps: 1, 2, 2, 3
        begun = generator.go_on(begun[::-1], until)[::-1]
        for one, other in zip(begun, generator.begin(jobs, until), strict=True):
            assert np.array_equal(one.foreseen.pixels, other.foreseen.pixels)
            assert one.foreseen.notes[STOPPED] == until
            assert one.state.step == other.state.step
    for one, other in zip(generator.finish(begun), generator.generate(jobs), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_a_variation_of_a_real_image_goes_on_as_well(models, tmp_path):
    from factory.data.images import list_images

    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (image,) = list_images(tmp_path)
    reference = Reference(image, "0" * 64, 0.6, "resize")
    generator, jobs = open_model(models / "flow"), draw_jobs(4, reference)
    whole = generator.generate(jobs)
    finished = generator.finish(generator.begin(jobs, 0.5)[::-1])[::-1]
    for one, other in zip(whole, finished, strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_a_job_that_ends_part_way_is_what_was_foreseen(models):
    from dataclasses import replace

    generator, jobs = open_model(models / "flow"), draw_jobs(3)
    begun = generator.begin(jobs, 0.3)
    ended = generator.generate([replace(job, until=0.3) for job in jobs[:2]] + [jobs[2]])
    for one, other in zip(begun[:2], ended, strict=False):
        assert np.array_equal(one.foreseen.pixels, other.pixels)
        assert other.notes[STOPPED] == 0.3
    assert STOPPED not in ended[2].notes


def write(folder: Path, **changes):
    few = [{"kind": "class", "per_class": {"normal": 6, "tumor": 7}}]
    return write_recipe(folder, **{"filters": FINITE, "conditions": few, "early": EARLY, **changes})


def by_id(rows):
    return {row["sample_id"]: row for row in rows}


def read_all(folder: Path):
    return [*read_rows(folder), *read_rows(folder, "rejected")]


def test_stopped_tries_are_rejected_and_the_rest_is_as_without(tmp_path):
    recipe = write(tmp_path / "a")
    run(recipe, tmp_path / "early")
    run(write_recipe(tmp_path / "b", filters=FINITE), tmp_path / "whole")
    stopped, finished, whole = [], {}, by_id(read_all(tmp_path / "whole"))
    for row in read_all(tmp_path / "early"):
        if row["scores"][STOPPED] > 0:
            stopped.append(row)
        else:
            finished[row["sample_id"]] = row
    assert stopped and all(row["rejected_by"] == "early" for row in stopped)
    assert all(row["scores"]["contrast"] is None for row in stopped)
    early = Early.model_validate(EARLY)
    assert all(early.is_hopeless(row["scores"], row["class_name"]) for row in stopped)
    checked = [
        row for row in finished.values() if early.is_hopeless(row["scores"], row["class_name"])
    ]
    assert checked and all(early.is_checked(row["seed"]) for row in checked)
    common = finished.keys() & whole.keys()
    assert common
    for name in common:
        assert finished[name]["image_sha256"] == whole[name]["image_sha256"]
        assert finished[name]["scores"]["contrast"] == whole[name]["scores"]["contrast"]
    summary = read_json(tmp_path / "early" / "summary.json")
    counts = [part["early"] for part in summary["series"]]
    passed = [row for row in checked if row["scores"]["contrast"] >= 0.1435]
    assert sum(part["looked"] for part in counts) == len(stopped) + len(finished)
    assert sum(part["stopped"] for part in counts) == len(stopped)
    assert sum(part["checked"] for part in counts) == len(checked)
    assert sum(part["passed"] for part in counts) == len(passed) > 0
    assert "early" in summary["series"][0]["rejected"]
    told = read_first_attempts(tmp_path / "early")
    assert isinstance(told, str) and "their images are not whole" in told


def test_batches_shards_and_workers_change_nothing(tmp_path):
    first = write(tmp_path / "a", generator={"batch_size": 1})
    run(first, tmp_path / "one")
    run(
        write(tmp_path / "b", generator={"batch_size": 7}, output={"shard_size": 9}),
        tmp_path / "two",
    )
    one, other = (by_id(read_rows(tmp_path / name)) for name in ("one", "two"))
    assert {name: row["image_sha256"] for name, row in one.items()} == {
        name: row["image_sha256"] for name, row in other.items()
    }


def test_told_in_card_report_and_command_and_sound_for_verify(tmp_path):
    recipe = write(tmp_path)
    out = tmp_path / "out"
    printed = ask("run", recipe, "--out", out)
    assert "Early rejection: after 50% of the steps" in printed
    assert "stops are in error" in (out / "README.md").read_text()
    ask("report", out)
    assert "stops are in error" in (out / "report.html").read_text()
    ask("verify", out, "--regenerate", 400)
    found = api.verify(api.open_dataset(out))
    assert found.is_sound
    stopped = next(row for row in read_rows(out, "rejected") if row["scores"][STOPPED] > 0)
    told = ask("regenerate", out, stopped["sample_id"], "--out", tmp_path / "again.webp")
    assert "exact" in told


def test_refilter_does_not_take_what_was_stopped(tmp_path):
    run(write(tmp_path), tmp_path / "out")
    before = by_id(read_all(tmp_path / "out"))
    ask("refilter", tmp_path / "out", "--set", "filters.finite.min_contrast=0.0")
    rows = read_rows(tmp_path / "out")
    assert rows and all(before[row["sample_id"]]["scores"][STOPPED] == 0 for row in rows)
    ask("verify", tmp_path / "out")


def test_a_drained_run_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    from factory.engine import filling, parts

    recipe = write(tmp_path / "a")
    run(recipe, tmp_path / "whole")
    monkeypatch.setattr(parts, "PART_SECONDS", 0.0)
    made = filling.Filling._make_batch
    starts, batches = [0], [0]

    def stop(self, size):
        batches[0] += 1
        if batches[0] > 2 * starts[0]:
            self.parts.save(self.seconds)
            raise KeyboardInterrupt
        return made(self, size)

    monkeypatch.setattr(filling.Filling, "_make_batch", stop)
    for start in range(1, 30):
        starts[0], batches[0] = start, 0
        try:
            run_recipe(load_recipe(recipe), str(tmp_path / "cut"))
            break
        except KeyboardInterrupt:
            continue
    one, other = (by_id(read_all(tmp_path / name)) for name in ("whole", "cut"))
    assert starts[0] >= 3 and one.keys() == other.keys()
    for name, row in one.items():
        assert row["image_sha256"] == other[name]["image_sha256"]
        assert row["scores"] == other[name]["scores"]


def test_what_cannot_be_stopped_is_refused(tmp_path, models):
    with pytest.raises(RecipeError, match=r"early\.min\.focus: no filter .* writes"):
        check_recipe(load_recipe(write(tmp_path, early={"min": {"focus": 1.0}})))
    with pytest.raises(RecipeError, match=r"early: names no score"):
        load_recipe(write_recipe(tmp_path / "b", filters=FINITE, early={"at": 0.5}))
    bounds = {"contrast": {"normal": 0.1, "tumour": 0.1}}
    with pytest.raises(RecipeError, match=r"early\.min\.contrast\.tumour: no condition asks"):
        check_recipe(load_recipe(write(tmp_path / "d", early={"min": bounds})))
    (tmp_path / "captions.txt").write_text("tumor tissue\nnormal tissue\n")
    spoken = [{"kind": "caption", "captions": str(tmp_path / "captions.txt"), "count": 2}]
    changes = {"conditions": spoken, "early": {"min": {"contrast": {"tumor": 0.1}}}}
    with pytest.raises(RecipeError, match=r"early\.min\.contrast\.tumor: no condition asks"):
        check_recipe(load_recipe(write(tmp_path / "e", **changes)))
    with pytest.raises(RecipeError, match=r"early\.at: must be >= 0\.01"):
        load_recipe(write(tmp_path / "f", early={"at": 0.00001}))  # a row would say 0: not stopped
    text = {"model": "stable-diffusion-1-5", "prompt_template": "{class_name}"}
    with pytest.raises(RecipeError, match=r"early: .* cannot be stopped part-way"):
        check_recipe(load_recipe(write(tmp_path / "c", generator=text)))


def test_a_bound_may_be_of_a_class(tmp_path):
    bounds = {"contrast": {"normal": 0.08}}
    run(write(tmp_path, early={**EARLY, "min": bounds}), tmp_path / "out")
    rows = read_rows(tmp_path / "out", "rejected")
    stopped = [row["class_name"] for row in rows if row["scores"][STOPPED] > 0]
    assert set(stopped) == {"normal"}
    assert "for normal" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_not_foreseen_stops_nothing():
    early = Early.model_validate({"min": {"focus": {"tumor": 2.0}}, "max": {"contrast": 0.5}})
    said = {"foreseen_focus": 1.0, "foreseen_contrast": 0.4}
    assert early.is_hopeless(said, "tumor")
    assert not early.is_hopeless(said, "normal") and not early.is_hopeless(said, None)
    for missing in (None, float("nan")):
        assert not early.is_hopeless({**said, "foreseen_focus": missing}, "tumor")


def test_the_card_says_no_more_than_was_seen(tmp_path):
    run(write(tmp_path / "a", early={**EARLY, "min": {"contrast": 0.0}}), tmp_path / "none")
    assert (
        "tries looked hopeless (foreseen contrast below 0).\n"
        in (tmp_path / "none" / "README.md").read_text()
    )
    (tmp_path / "seen").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "seen" / "one.png")
    seen = str(tmp_path / "seen")
    copies = {"kind": "training_copy", "images": seen, "max_similarity": 0.99}
    run(write(tmp_path / "b", filters=[*FINITE, copies]), tmp_path / "some")
    summary = read_json(tmp_path / "some" / "summary.json")
    stopped = sum(part["early"]["stopped"] for part in summary["series"])
    judged = f" of {summary['generated'] - stopped} candidates whose similarity"
    assert stopped and judged in (tmp_path / "some" / "README.md").read_text()


def test_without_it_nothing_changes(tmp_path):
    run(write_recipe(tmp_path, filters=FINITE), tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not summary.get("early") and not summary["series"][0].get("early")
    assert STOPPED not in read_rows(tmp_path / "out")[0]["scores"]
