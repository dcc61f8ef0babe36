"""Previews: the first tries of several series, which share batches."""

import numpy as np

from factory.engine.preview import judge_first_tries
from factory.engine.run import plan_recipe
from factory.engine.shard import Worker
from factory.engine.task import Order
from factory.recipe.file import load_recipe
from tests.running import write_recipe


def test_series_that_share_a_batch_show_each_its_own(tmp_path):
    """Their first requests have the same index and attempt."""
    loaded = load_recipe(write_recipe(tmp_path))
    worker = Worker(Order(loaded.recipe, loaded.session, "memory://preview"))
    (found,) = judge_first_tries(worker, plan_recipe(loaded), 4)
    assert [each.job.condition.class_name for each in found] == ["normal", "tumor"] * 2
    for each in found:
        (alone,) = worker.try_all([each.job])
        assert np.array_equal(each.sample.pixels, alone.sample.pixels)
