"""Cost estimates."""

import pytest

from factory.estimate import compute_idle_share, draw_first_jobs
from tests.test_plan import make_plan


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
