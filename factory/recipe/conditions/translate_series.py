"""The series of a block of translations: its sources in turn, all of them or those of a class."""

import functools
import math
from dataclasses import dataclass
from typing import Any

from factory.core.hashing import compute_digest
from factory.data.records import Condition, Request
from factory.data.streams import Source
from factory.recipe.conditions.series import ManyConditions, OneClass


@dataclass(frozen=True)
class TranslateSeries(ManyConditions):
    """The sources in turn, then again with the next ordinals."""

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


@dataclass(frozen=True)
class RestyleSeries(OneClass):
    """The sources of a class, each in one look after the other; so do the attempts of a request.

    Attempts step far through the pairs of source and look, so that those of a request are not the
    first tries of its neighbours, which a method without chance would make again.
    """

    class_name: str | None
    conditions: tuple[Condition, ...]
    count: int
    details: tuple[str, ...] = ()
    origin = "(translated)"

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its pairs in order."""
        asked = [condition.describe() for condition in self.conditions]
        return compute_digest("series", {"kind": "translate of a class", "conditions": asked})[:16]

    @functools.cached_property
    def _step(self) -> int:
        """About 0.62 of the pairs, and no divisor in common: all are met, the next ones last."""
        total = len(self.conditions)
        near = sorted(range(1, total + 1), key=lambda each: abs(each - 0.618 * total))
        return next(each for each in near if math.gcd(each, total) == 1)

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: it starts with pair `index` modulo their number."""
        total = len(self.conditions)
        tries = ((place - index) % total for place in range(total))
        pool = tuple(self.conditions[(index + each * self._step) % total] for each in tries)
        return Request(self.key, index, self.conditions[index % total], index, pool)
