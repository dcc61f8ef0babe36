"""`review`: rejects images that people rejected who looked at them (`factory review`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.catalog.entries import Fraction
from factory.core.errors import InputError
from factory.core.late import np
from factory.data.records import SCORE_DECIMALS, Condition, Sample
from factory.data.review.answers import Answer, Case
from factory.data.review.store import ReviewStore
from factory.filters.base import Score, Scores
from factory.filters.later import Gathered, LaterFilter, LaterSettings


class ReviewFilter(LaterFilter):
    """Scores `review`, the share of people who accept an image as what it was asked to be.

    Who accepts it, but says that it shows another class, does not. `reviewers` is how many looked.
    Both are told after the run: while it is made, no image is rejected, `review` is NaN and
    `reviewers` 0. `factory refilter DIR --set filters.review.min_review=0.5` decides by the answers
    that are there then, in a run whose recipe has this filter or not.
    """

    scores = (
        Score("review", at_least="min_review", may_be_nan=True),
        Score("reviewers", at_least="min_reviewers"),
    )

    class Settings(LaterSettings):
        kind: Literal["review"]
        min_review: Fraction = Field(0.5, description="share of people who accept the image")
        min_reviewers: int = Field(
            0, ge=0, le=1000, description="people who looked; 0: images nobody saw may pass"
        )

    settings: Settings

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns NaN and 0: nobody has looked yet."""
        return {"review": np.full(len(samples), np.nan), "reviewers": np.zeros(len(samples))}

    @classmethod
    def gather(cls, folder: Path) -> Gathered:
        """Returns the scores of all images that somebody answered on.

        Raises:
            InputError: nobody has answered.
            StoreError: the answers cannot be read.
        """
        store = ReviewStore(folder)
        blind = {each.id: each.blind for each in store.list_readings() if not each.asks.is_study}
        cases = {(name, case.id): case for name in blind for case in store.list_cases(name)}
        last: dict[tuple[str, int], tuple[bool, bool]] = {}  # blind or not, the latest counts
        for name, reader, answer in store.list_kept():
            if name in blind:
                case = cases[name, answer.case]
                last[case.images[0].key, reader] = _accepts(answer, case), blind[name]
        votes: dict[str, dict[int, bool]] = {}
        for (key, reader), (accepts, _) in last.items():
            votes.setdefault(key, {})[reader] = accepts
        if not votes:
            raise InputError(f"{folder}: nobody has answered: `factory review {folder}` first")
        scores = {
            name: {
                "review": round(sum(given.values()) / len(given), SCORE_DECIMALS),
                "reviewers": float(len(given)),
            }
            for name, given in votes.items()
        }
        readers = {reader for _, reader in last}
        shown = {case.images[0].key for case in cases.values()}
        roles = Counter(each.role for each in store.list_readers() if each.number in readers)
        looked = _tell(roles, len(votes), len(shown), {is_blind for _, is_blind in last.values()})
        return Gathered({"review": None, "reviewers": 0.0}, scores, looked)


def _accepts(answer: Answer, case: Case) -> bool:
    return answer.verdict == "accept" and answer.class_name in (None, case.class_name)


def _tell(roles: Counter[str], seen: int, shown: int, is_blind: set[bool]) -> str:
    who = ", ".join(f"{count} {role}" for role, count in sorted(roles.items()))
    how = {
        frozenset({True}): "the class asked for was not shown",
        frozenset({False}): "the class asked for was shown",
    }.get(frozenset(is_blind), "the class asked for was shown to some answers, not to others")
    return f"{who} at {seen:,} of {shown:,} images, none told who else said what; {how}"
