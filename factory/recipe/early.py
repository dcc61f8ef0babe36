"""`early`: which tries are stopped part-way, by what the image foreseen there scores."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Fraction, Strict
from factory.core.hashing import derive_seed
from factory.data.records import FORESEEN, SCORE_DECIMALS, STOPPED

Scores = Mapping[str, float | None]
Bound = float | Annotated[dict[str, float], Field(min_length=1)]
"""A number, or class -> number; other classes are not bounded."""


class Early(Strict):
    """Stops a try part-way where the image foreseen there is hopeless, and begins another one."""

    at: float = Field(
        0.5, ge=0.01, lt=1.0, description="share of the steps after which an image is foreseen"
    )
    min: dict[str, Bound] = Field(
        {}, description="score of a filter -> least value, or class -> least value; below it stops"
    )
    max: dict[str, Bound] = Field(
        {}, description="score -> largest value, likewise; a foreseen image above it is stopped"
    )
    check: Fraction = Field(
        0.05, description="share of the hopeless that is finished all the same, to count errors"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if not self.looked:
            raise ValueError("names no score: add min, e.g. {class_probability: 0.2}, or max")
        return self

    @property
    def looked(self) -> tuple[str, ...]:
        """Scores that foreseen images get, sorted."""
        return tuple(sorted({*self.min, *self.max}))

    @property
    def score_names(self) -> tuple[str, ...]:
        """Scores that rows have of it."""
        return (STOPPED, *(f"{FORESEEN}{name}" for name in self.looked))

    def is_hopeless(self, scores: Scores, class_name: str | None) -> bool:
        """Whether the scores of a row, or of a try part-way, say that it is not worth its end."""
        return next(self._find_faults(scores, class_name), None) is not None

    def is_checked(self, seed: int) -> bool:
        """Whether the try of a seed is finished even if it is hopeless; the seed alone decides."""
        return derive_seed(0, "early", seed) / 2**63 < self.check

    def _find_faults(self, scores: Scores, class_name: str | None) -> Iterator[str]:
        for limits, sign in ((self.min, 1.0), (self.max, -1.0)):
            for name, bound in limits.items():
                value = scores.get(f"{FORESEEN}{name}")
                limit = bound.get(class_name or "") if isinstance(bound, dict) else bound
                if value is None or math.isnan(value) or limit is None:
                    continue
                if sign * value < sign * round(limit, SCORE_DECIMALS):
                    yield name
