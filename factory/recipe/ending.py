"""What `budget.stop` needs of a recipe: real images to compare with, and series that are long."""

from collections.abc import Container, Sequence

from factory.core.errors import SourceError
from factory.core.metrics.growing import GROUPS
from factory.filters.real.set import RealSet, choose_real_set
from factory.models.session import Session
from factory.recipe.conditions import Series
from factory.recipe.conditions.series import find_bag_size, find_sizes
from factory.recipe.stop import Stop

FIRST = 2
"""Blocks of the first test: one, and the newest."""


def read_real(rule: Stop, session: Session, asked: Container[str]) -> RealSet:
    """Returns the real images that are compared with.

    Args:
        rule: says where they are.
        session: that reads them.
        asked: classes that are asked for; of others there may be few.

    Raises:
        SourceError: they cannot be read, or are too few.
    """
    real = choose_real_set(rule, session)
    is_limited = real.found > len(real.images)
    remedy = "add some, or raise budget.stop.limit" if is_limited else "add some"
    for name in [each for each in real.class_names if each in asked] or (None,):
        count = sum(name in (None, image.class_name) for image in real.images)
        if count < GROUPS:
            where = "" if name is None else f" of class {name!r}"
            raise SourceError(
                f"{real.root}: {count} different images{where} are too few to compare with: "
                f"{remedy}: {GROUPS} at least"
            )
    return real


def check_series(series: Sequence[Series], rule: Stop) -> str:
    """Returns why no series can end early, or one must not; empty where all is well."""
    for part in series:
        if find_sizes(part) or find_bag_size(part):
            return (
                f"{part.label}: families and slides count whole only, and a series that ends in "
                "the middle would cut them: remove budget.stop"
            )
    longest = max((part.count for part in series), default=0)
    if longest <= FIRST * rule.every:
        return (
            f"the longest series asks for {longest:,} images, and the first test comes after "
            f"{FIRST * rule.every:,}: budget.stop.every must be below {-(-longest // FIRST):,}, or "
            "remove budget.stop"
        )
    return ""
