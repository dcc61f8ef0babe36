"""Looking at what is foreseen of a try part-way: whether it goes on, or is stopped there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factory.data.records import (
    FORESEEN,
    NONFINITE,
    SCORE_DECIMALS,
    STOPPED,
    Candidate,
    Job,
    Sample,
    Verdict,
    round_nonfinite,
)
from factory.filters import score_all
from factory.filters.base import Filter
from factory.models.generators.base import Begun
from factory.recipe.early import Early


@dataclass(frozen=True, slots=True)
class Seen:
    """A try that was begun, and looked at.

    Attributes:
        begun: as the generator left it.
        scores: of the image foreseen, and where the try was stopped; of a row, whatever comes.
        stopped: the verdict on one that does not go on.
    """

    begun: Begun
    scores: Mapping[str, float]
    stopped: Verdict | None = None

    @property
    def job(self) -> Job:
        """The try."""
        return self.begun.job

    @property
    def goes_on(self) -> bool:
        """Whether it is worth its end, or is finished to count errors."""
        return not self.scores[STOPPED] > 0

    def to_candidate(self) -> Candidate | None:
        """Returns the rejected candidate of one that was stopped: the image foreseen."""
        if self.stopped is None:
            return None
        return Candidate(self.job, self.begun.foreseen, self.scores, self.stopped)


def look_at(
    begun: Sequence[Begun], samples: Sequence[Sample], filters: Sequence[Filter], early: Early
) -> list[Seen]:
    """Scores what is foreseen of tries, and tells which go on; none has its verdict yet.

    Args:
        begun: N tries.
        samples: the image foreseen of each, as filters take it.
        filters: of the recipe; those that write no score in question do not look.
        early: what is hopeless.

    Raises:
        FilterError: scoring failed.
    """
    looking = [each for each in filters if not set(each.score_names).isdisjoint(early.looked)]
    seen = score_all(looking, samples, [each.job.condition for each in begun])
    found = []
    for each, sample, scores in zip(begun, samples, seen, strict=True):
        known = {f"{FORESEEN}{name}": scores[name] for name in early.looked}
        asked = each.job.condition.class_name
        if early.is_hopeless(known, asked) and not early.is_checked(each.job.seed):
            nonfinite = round_nonfinite(sample.nonfinite)
            stopped = {NONFINITE: nonfinite, STOPPED: round(early.at, SCORE_DECIMALS), **known}
            found.append(Seen(each, stopped))
        else:
            found.append(Seen(each, {STOPPED: 0.0, **known}))
    return found
