"""What is noted of the decisions of some series while requests are walked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from factory.engine.selection import Decision


@dataclass(slots=True)
class Tally(ABC):
    """Notes the decisions of the series that it is about.

    Args:
        sizes: of each such series, how many images make a whole.

    Attributes:
        reads: columns of rows that it needs.
    """

    reads: ClassVar[tuple[str, ...]]
    sizes: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """What of rows is read for it."""
        return self.reads if self.sizes else ()

    def add(
        self, series: str, candidates: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
    ) -> None:
        """Notes one request, where it is of such a series."""
        if series in self.sizes:
            self._note(series, candidates, decisions)

    @abstractmethod
    def _note(
        self, series: str, candidates: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
    ) -> None:
        """Notes one request."""
