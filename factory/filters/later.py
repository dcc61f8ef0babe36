"""Filters whose scores come after the run, from people: `factory refilter` gathers them."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field

from factory.filters.base import Filter, FilterSettings


@dataclass(frozen=True, slots=True)
class Gathered:
    """Scores that came after the run.

    Attributes:
        missing: score -> its value where none came; None is NaN.
        scores: sample id -> score -> value.
        looked: who gave them, at how many images and how blind, in words for the card.
    """

    missing: Mapping[str, float | None] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    looked: str = ""


class LaterSettings(FilterSettings):
    """Settings that name the scores they decide by; a recipe file that is run has none yet."""

    later: str | None = Field(
        None, description="digest of the answers decided by; `factory refilter` writes it"
    )
    looked: str | None = Field(
        None, description="who looked, at how many, how blind; `factory refilter` writes it"
    )

    def settle(self, base: Path) -> Self:
        """Returns them without answers: those that a recipe file names are of another run."""
        return self.model_copy(update={"later": None, "looked": None})


class LaterFilter(Filter):
    """Knows nothing while a run is made, and lets all pass; people tell it afterwards."""

    @classmethod
    @abstractmethod
    def gather(cls, folder: Path) -> Gathered:
        """Returns the scores that came since.

        Args:
            folder: of the run.

        Raises:
            InputError: there are none.
            StoreError: they cannot be read.
        """
