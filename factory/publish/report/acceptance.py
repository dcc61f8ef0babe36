"""Acceptance of a series along its requests, in a bounded number of bins."""

from dataclasses import dataclass, field
from typing import Any

BINS = 240
"""Kept while counting; neighbours are merged when there are more."""
POINTS = 40
LEAST_TRIED = 8
"""Candidates that a point should stand for, where there are as many."""


@dataclass(slots=True)
class Acceptance:
    """Accepted and tried candidates by request index; spare ones were not needed and do not count.

    Indices come in any order below a growing end, as a run grows at its end.
    """

    width: int = 1
    """Requests in a bin."""
    accepted: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)

    def add(self, index: int, status: str) -> None:
        """Counts one candidate of the request at `index`."""
        while index // self.width >= BINS:
            self.accepted, self.tried = _merge(self.accepted), _merge(self.tried)
            self.width *= 2
        place = index // self.width
        missing = place + 1 - len(self.tried)
        if missing > 0:
            self.accepted += [0] * missing
            self.tried += [0] * missing
        if status != "spare":
            self.tried[place] += 1
            self.accepted[place] += status == "accepted"

    def to_points(self) -> list[dict[str, Any]]:
        """Returns at most POINTS points: last request, candidates tried, and accepted of them."""
        least = max(LEAST_TRIED, sum(self.tried) / POINTS)
        points: list[dict[str, Any]] = []
        tried = accepted = 0
        for place, (more_tried, more) in enumerate(zip(self.tried, self.accepted, strict=True)):
            tried, accepted = tried + more_tried, accepted + more
            if tried >= least:
                points.append(self._make_point(place, tried, accepted))
                tried = accepted = 0
        if tried:
            last = points.pop() if points else {"tried": 0, "accepted": 0}
            tried, accepted = tried + last["tried"], accepted + last["accepted"]
            points.append(self._make_point(len(self.tried) - 1, tried, accepted))
        return points

    def _make_point(self, place: int, tried: int, accepted: int) -> dict[str, Any]:
        return {"requests": (place + 1) * self.width, "tried": tried, "accepted": accepted}


def _merge(counts: list[int]) -> list[int]:
    padded = counts + [0] * (len(counts) % 2)
    return [a + b for a, b in zip(padded[::2], padded[1::2], strict=True)]
