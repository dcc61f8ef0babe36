"""Cost estimates."""

import pytest

from factory.core.errors import InputError
from factory.engine.cost import CostOptions, describe_costs, reckon_costs
from factory.engine.estimate import compute_idle_share, draw_first_jobs, estimate_cost
from factory.engine.run import plan_recipe
from factory.recipe.file import load_recipe
from tests.engine.test_plan import make_plan
from tests.running import run, write_recipe


@pytest.mark.parametrize(
    ("counts", "shard_size", "batch_size", "expected"),
    [
        ({"a": 64, "b": 128}, 64, 16, 0.0),
        ({"a": 24}, 64, 16, 0.25),
        ({"a": 100}, 100, 64, 1 - 100 / 128),
        ({"a": 5, "b": 5}, 64, 16, 1 - 10 / 32),
    ],
)
def test_idle_places(counts, shard_size, batch_size, expected):
    share = compute_idle_share(make_plan(counts, shard_size), batch_size)
    assert share == pytest.approx(expected, abs=1e-4)


def test_first_jobs_take_turns_and_are_what_a_run_tries_first():
    plan = make_plan({"a": 2, "b": 5})
    jobs = draw_first_jobs(plan, 7, 6)
    names = [job.condition.class_name for job in jobs]
    assert names == ["a", "b", "a", "b", "b", "b"]
    assert jobs[1].seed == plan.series[1].request_at(0).derive_seed(7, 0)


def test_costs_follow_from_hours():
    options = CostOptions(price=3.0, watts=500, carbon=400)
    found = reckon_costs((7200.0, 3600.0, 14400.0), options, 2)
    assert found["worker_hours"] == pytest.approx([2, 1, 4])
    assert found["hours"] == pytest.approx([1, 0.5, 2])
    assert found["money"] == pytest.approx([6, 3, 12])
    assert found["energy_kwh"] == pytest.approx([1, 0.5, 2])
    assert found["carbon_kg"] == pytest.approx([0.4, 0.2, 0.8])
    lines = describe_costs(found)
    assert lines[2] == "6 at the price given (3 to 12)" and len(lines) == 5
    assert list(reckon_costs((1.0, 1.0, 1.0), CostOptions(), None)) == ["worker_hours"]


def test_a_plan_tells_the_range_that_few_candidates_leave(tmp_path):
    recipe = write_recipe(
        tmp_path,
        generator={"width": 64, "height": 64, "batch_size": 8},
        conditions=[{"kind": "class", "per_class": {"normal": 60, "tumor": 60}}],
        filters=[{"kind": "finite", "min_contrast": 0.01}],
        budget={"attempts": 2},
        workers={"executor": "local", "count": 1},
    )
    loaded = load_recipe(recipe)
    report = estimate_cost(loaded, plan_recipe(loaded), True, costs=CostOptions(price=1.0))
    low, high = report["acceptance_ends"]
    assert 0.7 < low < report["acceptance"] == high == 1.0  # 16 of 16
    assert report["expected_candidates_ends"] == [120, round(120 * (2 - low))]
    assert report["costs"]["money"] == report["costs"]["hours"]
    assert report["costs"]["money"][0] == pytest.approx(report["expected_seconds"] / 3600)
    two_shards = ["workers.count=9", "output.shard_size=60"]
    idle = load_recipe(recipe, two_shards)
    found = estimate_cost(idle, plan_recipe(idle), True)["costs"]
    assert found["hours"][0] == pytest.approx(found["worker_hours"][0] / 2)
    for options, calibrate, field in (
        (CostOptions(price=1.0), False, "--no-calibrate"),
        (CostOptions(carbon=1.0), True, "--carbon"),
    ):
        with pytest.raises(InputError, match=field):
            estimate_cost(loaded, plan_recipe(loaded), calibrate, costs=options)


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("kept", "formats", "contrast"),
    [
        ("images", ["parquet", "webdataset"], 0.01),
        ("images", ["parquet"], 0.5),
        ("scores", ["parquet"], 0.5),
    ],
    ids=["all accepted", "all rejected", "all rejected, scores kept"],
)
def test_the_disk_that_a_plan_expects_is_what_a_run_takes(tmp_path, kept, formats, contrast):
    recipe = write_recipe(
        tmp_path,
        generator={"width": 64, "height": 64, "batch_size": 16},
        conditions=[{"kind": "class", "per_class": {"normal": 64, "tumor": 64}}],
        filters=[{"kind": "finite", "min_contrast": contrast}],
        budget={"attempts": 2},
        output={"formats": formats, "keep_rejected": kept, "shard_size": 64},
    )
    loaded = load_recipe(recipe)
    expected = estimate_cost(loaded, plan_recipe(loaded), calibrate=True)["disk_gib"] * 2**30
    run(recipe, tmp_path / "out")
    found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    rows = [path for path in found if path.suffix in (".parquet", ".tar")]
    size = sum(path.stat().st_size for path in rows)
    assert size / 1.5 < expected < size * 1.5, (expected, size)
