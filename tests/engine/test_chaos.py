"""One round of each disturbance (`python -m tests.chaos` plays as many as are asked for)."""

import pytest

from tests import chaos
from tests.engine.test_ray import environment

__all__ = ["environment"]
DAILY = {"clock_jumps"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DAILY else pytest.mark.slow) for n in chaos.KINDS]
)
def test_nothing_is_lost(name, tmp_path, s3_environment):
    chaos.play(name, "1", tmp_path, s3_environment, chaos.Line())
