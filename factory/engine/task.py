"""What a worker is sent: an order, with which it starts, and tasks, one for each shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from factory.data.records import Request, Shard
from factory.engine.plan import Plan
from factory.models.generators.environment import find_environment, write_for_ray
from factory.models.generators.settings import find_entry
from factory.models.session import Session
from factory.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Order:
    """All that a worker needs to start, small enough to send anywhere."""

    recipe: Recipe
    session: Session
    run_url: str

    @property
    def environment(self) -> dict[str, Any] | None:
        """Ray's `runtime_env` of the generator; None: factory's own libraries.

        Raises:
            InputError: a wheel file that is not there.
        """
        settings = self.recipe.generator
        found = find_environment(settings, find_entry(settings, self.session.catalogs))
        return None if found is None else write_for_ray(found, self.session.base)


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to fill. In a later round, `starts` names the requests that go on, and where.

    `requests` are those of `indices`, in order: a worker plans nothing.
    """

    shard: Shard
    round: int = 0
    starts: Mapping[int, int] | None = None
    requests: tuple[Request, ...] = ()

    @property
    def indices(self) -> Sequence[int]:
        """Places in the series of the requests to fill."""
        if self.starts is not None:
            return sorted(self.starts)
        return range(self.shard.start, self.shard.stop)

    def copy_starts(self) -> dict[int, int] | None:
        """Returns `starts`, for a record."""
        return None if self.starts is None else dict(self.starts)

    def ask(self, plan: Plan, attempts: int) -> "Task":
        """Returns the task with its requests, each with what `attempts` tries may show."""
        return replace(self, requests=plan.list_requests(self.shard, self.indices, attempts))
