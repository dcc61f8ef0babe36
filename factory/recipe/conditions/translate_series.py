"""The series of a block of translations: its sources in turn."""

import functools
from dataclasses import dataclass
from typing import Any

from factory.core.hashing import compute_digest
from factory.data.records import Condition, Request
from factory.data.streams import Source
from factory.recipe.conditions.series import ManyConditions


@dataclass(frozen=True)
class TranslateSeries(ManyConditions):
    """The sources in turn, then again with the next ordinals."""

    name: str
    conditions: tuple[Condition, ...]
    count: int
    details: tuple[str, ...] = ()
    origin = "translated"

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its sources in order, and what they become."""
        sources = [condition.describe() for condition in self.conditions]
        told: dict[str, Any] = {"kind": "translate", "sources": sources}
        if not all(source.is_kept for each in self.conditions if (source := each.get(Source))):
            told["keep_source"] = False  # rows that keep none are other rows
        return compute_digest("series", told)[:16]

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        ordinal, row = divmod(index, len(self.conditions))
        return Request(self.key, index, self.conditions[row], ordinal)
