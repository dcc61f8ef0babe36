"""`budget.stop` by utility: all series end at once where their newest images teach nothing more."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory import api
from factory.core.errors import InputError, MismatchError
from factory.recipe.file import load_recipe
from tests import forked, killer
from tests.engine.stopping import (
    Ahead,
    change_first_test,
    change_tests,
    read_ends,
    read_stops,
    save_real,
    write_rule,
)
from tests.running import ask, call, find_problems, list_identities, read_rows, run, run_recipe

FEW = {"normal": 110, "tumor": 90}
PATTERN = r"(?P<group>p\d+)_"


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """Labelled images of 20 patients a class, two of each; ten of these have both classes."""
    names = {
        name: [f"p{first + number // 2}_{number}" for number in range(40)]
        for name, first in (("normal", 0), ("tumor", 10))
    }
    return save_real(tmp_path_factory.mktemp("real"), names)


def write(folder: Path, real: Path, tolerance: float = 0.1, counts=FEW, **changes) -> Path:
    rule = {"when": "utility", "every": 24, "images": str(real), "tolerance": tolerance}
    return write_rule(folder, {**rule, "group_pattern": PATTERN}, counts, 12, **changes)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, real) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    run(write(folder, real), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, real) -> Path:
    """What goes on to the end: no block of it is narrow enough."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(write(folder, real, 0.07), folder / "run").exit_code == 0
    return folder / "run"


def test_all_series_end_at_once_where_the_newest_block_teaches_nothing(ended, whole):
    stops = read_stops(ended)
    assert read_ends(ended) == {"normal": 48, "tumor": 48}
    one, other = (stops[name]["tests"] for name in FEW)
    assert [{**each, "series": ""} for each in one] == [{**each, "series": ""} for each in other]
    assert (one[0]["units"], one[0]["by"]) == (30, "patients")
    assert max(-one[0]["low"], one[0]["high"]) <= 0.1
    assert one[0]["change"] == pytest.approx(one[0]["after"] - one[0]["before"])
    assert len(read_rows(ended)) == 96
    assert read_ends(whole) == {"normal": None, "tumor": None}
    tests = {name: stop["tests"] for name, stop in read_stops(whole).items()}
    assert [each["at"] for each in tests["normal"]] == [48, 72, 96]
    assert [each["at"] for each in tests["tumor"]] == [48, 72]  # it asks for 90
    assert all(max(-t["low"], t["high"]) > 0.07 for each in tests.values() for t in each)
    assert len(read_rows(whole)) == sum(FEW.values())
    assert list_identities(ended) < list_identities(whole)
    assert api.verify(api.open_dataset(whole)).is_sound


def test_told_in_plan_command_status_and_card(real, tmp_path):
    recipe, out = write(tmp_path, real), tmp_path / "run"
    told = ask("plan", recipe, "--no-calibrate")
    assert "normal may end early (budget.stop), after 48 requests or more" in told
    end = "normal: ended after 48 of 110 requests (its last test, at 48: "
    printed = ask("run", recipe, "--out", out)
    assert end in printed and "SHORTFALL" not in printed
    assert "changed the balanced accuracy on real images by" in ask("status", out)
    card = (out / "README.md").read_text()
    assert end in card and "over 30 patients" in card
    assert "All series end early, at once," in card and "by no more than 10.00 points" in card
    assert "already complete" in ask("run", recipe, "--out", out)


def test_verify_decides_again_and_sees_what_the_tests_saw(ended, tmp_path):
    assert api.verify(api.open_dataset(ended)).is_sound
    out = tmp_path / "changed"
    shutil.copytree(ended, out)
    change_first_test(out, "normal", high=0.5)
    change_tests(out, lambda tests: tests[1].update(sample="0" * 64))
    failures = "\n".join(str(each) for each in api.verify(api.open_dataset(out)).failures)
    assert "the test at 48 ends it, which its figures do not say" in failures
    assert "the tests at 48 say different things of series that end at once" in failures
    assert "the test at 48 saw other images" in failures


@pytest.mark.parametrize("size", [3, 16])
def test_workers_at_once_change_nothing(ended, real, tmp_path, monkeypatch, size):
    monkeypatch.setattr("factory.engine.executors.local.LocalPool", Ahead)
    out = tmp_path / "run"
    run(write(tmp_path, real, output={"shard_size": size}), out)
    assert list_identities(out) == list_identities(ended)
    assert read_ends(out) == read_ends(ended)
    assert api.verify(api.open_dataset(out)).is_sound


MOMENTS = [(16, "before"), (17, "after")]
"""Around the record of the first test."""
FURTHER = [(1, "after"), (9, "amid"), (16, "amid"), (17, "amid"), (19, "before")]


@pytest.mark.parametrize(
    ("number", "phase"),
    [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER)],
)
def test_killed_at_a_write_and_resumed(ended, real, tmp_path, number, phase):
    command = ["run", str(write(tmp_path, real)), "--out", str(tmp_path / "run")]
    assert forked.wait(forked.start(killer.run_armed, number, phase, command)) == -signal.SIGKILL
    resumed = call(*command)
    assert resumed.exit_code == 0, resumed.output
    assert list_identities(tmp_path / "run") == list_identities(ended)


def test_interrupted_after_a_test_and_resumed(whole, real, tmp_path):
    """The second test follows from images of before and after: `tumor` ends with its count."""
    recipe = write(tmp_path, real, 0.07)
    ended: list[object] = []

    def stop(outcome):
        ended.append(outcome)
        if len(ended) == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", notify=stop)
    run(recipe, tmp_path / "run")
    assert list_identities(tmp_path / "run") == list_identities(whole)
    for name, stop in read_stops(whole).items():
        assert read_stops(tmp_path / "run")[name]["tests"] == stop["tests"]


def test_refilter_decides_over_what_was_made_and_the_ends_stay(real, tmp_path):
    out = tmp_path / "run"
    run(write(tmp_path, real), out)
    before, ends = list_identities(out), read_ends(out)
    result = call("refilter", out, "--set", "filters.finite.min_contrast=0.15")
    assert result.exit_code == 1 and "SHORTFALL" in result.output
    assert read_ends(out) == ends
    assert api.verify(api.open_dataset(out)).is_sound
    ask("refilter", out)
    assert list_identities(out) == before


@pytest.mark.parametrize(
    "more",
    [
        {"normal": 60, "tumor": 50, "stroma": 40},
        pytest.param({"normal": 60, "tumor": 70}, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_grows_is_the_run_that_was_larger_at_once(real, tmp_path, more):
    """Of a series that was short, or is new, other series learn, so that all are tested anew."""
    few = {"normal": 60, "tumor": 40}
    shutil.copytree(real, tmp_path / "real")
    shutil.copytree(real / "normal", tmp_path / "real" / "stroma")
    for path in (tmp_path / "real" / "stroma").iterdir():
        pixels = np.asarray(Image.open(path))[::-1, ::-1]
        Image.fromarray(pixels).save(path)
    out, told, cut = tmp_path / "run", list[str](), {"output": {"shard_size": 24}}
    run(write(tmp_path / "a", tmp_path / "real", counts=few, **cut), out)
    larger = write(tmp_path / "b", tmp_path / "real", counts=more, **cut)
    run(larger, out, extend=True, say=told.append)
    run(larger, tmp_path / "whole")
    assert any("all are tested anew" in line for line in told)
    assert list_identities(out) == list_identities(tmp_path / "whole")
    assert read_ends(out) == read_ends(tmp_path / "whole")


def test_other_patients_of_the_same_images_are_refused(real, tmp_path):
    """By a column of a table, as a pattern is part of the recipe."""
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": None}, "label": path.parent.name, "who": who}
        for path in sorted(real.rglob("*.png"))
        for who in [path.name.partition("_")[0]]
    ]
    named = {"group_pattern": None, "group_column": "who", "image_column": "image"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "real.parquet")
    recipe = write(tmp_path, tmp_path / "real.parquet", stop=named)
    run(recipe, tmp_path / "run")
    rows[0]["who"] = "somebody"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "real.parquet")
    with pytest.raises(MismatchError, match=r"budget\.stop\.images: .* other images"):
        run(recipe, tmp_path / "run")


def test_what_cannot_end_together_is_refused_with_its_line(real, tmp_path):
    def find(field: str, **changes):
        problem = find_problems(write(tmp_path / "recipe", real, **changes))[f"budget.stop{field}"]
        assert problem.line is not None
        return problem.message

    few = find(".tolerance", tolerance=0.02)
    assert "20 patients of class 'normal' can tell a change of no less than 0.0673" in few
    assert "it needs 69 patients of each class, or a tolerance of 0.0673 or more" in few
    lone = find(".tolerance", tolerance=0.03, stop={"group_pattern": None})
    assert "40 images (patients are not told) of class 'normal'" in lone
    cut = find(".tolerance", tolerance=0.06, stop={"limit": 40})
    assert "limit leaves out 40 of 80 images" in cut
    message = "a classifier learns two classes or more, of all series, and there is 1"
    assert message in find(".when", counts={"normal": 70})
    assert "has no class 'normal'" in find(".images", stop={"images": str(real / "normal")})
    (tmp_path / "captions.txt").write_text("some tissue\nmore of it\n")
    captions = {"kind": "caption", "captions": str(tmp_path / "captions.txt"), "count": 60}
    assert "captions.txt has none" in find(".when", conditions=[captions])


def test_a_patient_named_in_part_is_refused(real, tmp_path):
    shutil.copytree(real, tmp_path / "real")
    pattern = {"group_pattern": r"(?P<group>p\d)_"}
    problem = find_problems(write(tmp_path, tmp_path / "real", stop=pattern))
    assert "budget.stop.images" in problem


def test_a_run_refuses_what_validate_refuses(real, tmp_path):
    with pytest.raises(InputError, match=r"budget\.stop\.tolerance: .* needs 69 patients"):
        run_recipe(load_recipe(write(tmp_path, real, 0.02)), str(tmp_path / "run"))
