"""What a filter is: it scores candidates, and decides from stored scores alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from factory.data.records import Condition, Sample, Verdict

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs
    from factory.models.encoders.pool import EncoderPool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What filters that need models or files look things up in.

    Attributes:
        base: folder of the recipe, which relative paths start from.
        catalogs: of classifiers, encoders, classes and captions.
        encoders: image encoders, each loaded once for all filters.
    """

    base: Path
    catalogs: "Catalogs"
    encoders: "EncoderPool"


class Filter(Protocol):
    """Scores candidates, and accepts or rejects from the scores.

    Scoring may load models; deciding must not, so that `factory refilter` works on stored scores
    without torch. A filter that throws is an infrastructure failure, never a rejection.
    """

    kind: ClassVar[str]
    score_names: tuple[str, ...]
    """Columns in `scores` that it writes, e.g. `tissue_fraction`; unique over all filters."""
    thresholds: ClassVar[Mapping[str, str]]
    """Settings field -> the score that it bounds. `min_*` accepts scores of at least its value,
    `max_*` of at most its value; a field that is None bounds nothing. Empty for rules over the set,
    which decide about no single candidate."""

    may_be_nan: ClassVar[frozenset[str]]
    """Scores that do not apply to every image: those of a class where none was asked, of glass
    where there is none. The one rule: a NaN of these lets the image pass, a NaN of any other score
    that a threshold bounds rejects it. `factory.filters.decide_all` keeps it for every filter."""

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns every score name -> (N,) float64; NaN only where a score does not apply.

        Raises:
            FilterError: scoring failed.
        """
        ...

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Accepts or rejects one candidate from its (rounded) scores; says why.

        Asked about NaN only of scores in `may_be_nan`, which it accepts.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, and the scorer's revision as plain data for provenance."""
        ...


@runtime_checkable
class PerClassFilter(Protocol):
    """A filter whose thresholds may differ by the class that a candidate was asked to show."""

    def decide_class(self, scores: Mapping[str, float], class_name: str | None) -> Verdict:
        """Decides as `decide` does; None for `class_name`: none was asked."""
        ...
