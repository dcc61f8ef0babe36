"""What is known of an image: facts, each with its source and its rule, and what is passed over."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["asked", "measured"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of an image, and how.

    Attributes:
        what: its name; of an object of a mask `count:NAME` and the like.
        value: as the vocabulary or a number has it.
        source: `asked` of the model, or `measured` in the pixels.
        rule: how the value follows.
        unit: of a number.
        more: what else a check needs or a reader may ask: `measure`, `number`, `edges`, `margin`,
            `distance` (to the nearest cut point beyond which the value were another), `asked`.
    """

    what: str
    value: Any
    source: Source
    rule: str
    unit: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        unit = {"unit": self.unit} if self.unit else {}
        told = {"value": self.value, "source": self.source, "rule": self.rule}
        return {"what": self.what, **told, **unit, **self.more}


@dataclass
class Known:
    """What is known of a row, its measures, and what is passed over: (fact, reason) -> times."""

    facts: dict[str, Fact] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, fact: Fact) -> None:
        """Keeps a fact."""
        self.facts[fact.what] = fact

    def leave(self, what: str, reason: str) -> None:
        """Counts what is not said."""
        self.passed[what, reason] += 1
