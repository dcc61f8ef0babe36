"""What a report gathers in one walk over a run: histograms, acceptance, and images to show.

Nothing grows with the run: counts by bin, and the few candidates of each kind that come first by a
key of their own. Sample ids are hashes, so the smallest ones are an even, repeatable choice.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.data.records import SCORE_DECIMALS, Shard
from factory.engine.committed import read_markers
from factory.engine.decided import iterate_decisions
from factory.engine.selection import Decision
from factory.publish.report.acceptance import Acceptance
from factory.publish.report.margins import (
    Limit,
    Margin,
    Spread,
    find_nearest_margin,
    measure_margins,
)
from factory.publish.report.state import RunState

COLUMNS = (
    "sample_id",
    "class_name",
    "scores",
    "reference_sha256",
    "descriptor",
    "caption",
    "prompt",
    "seed",
    "width",
    "height",
)
BINS = 30
WIDTH = 4.0
"""Standard deviations on both sides of the mean that bins span; the rest is in the end bins."""
MAX_COMPARED = 5000
"""Accepted images whose descriptors are kept, to be compared with real ones."""
MAX_GROUPS = 500
"""Groups (of a series, or of a series and a filter) that candidates to show are kept of."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A candidate that may be shown.

    Attributes:
        row: columns but image and descriptor.
        shard: where it is stored.
        decision: what became of it.
        margin: the threshold that it is nearest to, seen from its verdict; None without one.
        descriptor: (256,) of an accepted image, where near-duplicates were looked for.
    """

    row: Mapping[str, Any]
    shard: Shard
    decision: Decision
    margin: Margin | None
    descriptor: NDArray[np.float16] | None = None

    @property
    def sample_id(self) -> str:
        """Its id."""
        return str(self.row["sample_id"])


class Smallest:
    """The `size` candidates with the smallest keys of those offered."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[tuple[tuple[float, str], Shown]] = []

    def offer(self, key: float, candidate: Shown) -> None:
        """Keeps it, if its key is among the smallest; ties go by sample id."""
        self._kept.append(((key, candidate.sample_id), candidate))
        if len(self._kept) > 4 * self.size + 16:
            self._cut()

    def list(self) -> list[Shown]:
        """Returns those kept, smallest key first."""
        self._cut()
        return [candidate for _, candidate in self._kept]

    def _cut(self) -> None:
        self._kept.sort(key=lambda pair: pair[0])
        del self._kept[self.size :]


class Pools:
    """Pools of candidates by group, e.g. by series."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._groups: dict[tuple[str, ...], Smallest] = {}

    def offer(self, group: tuple[str, ...], key: float, candidate: Shown) -> None:
        """Offers a candidate to the pool of its group."""
        if group not in self._groups:
            if len(self._groups) >= MAX_GROUPS:
                return
            self._groups[group] = Smallest(self.size)
        self._groups[group].offer(key, candidate)

    def draw(self, count: int) -> list[Shown]:
        """Returns `count` candidates, groups taking turns; ordered by group, then key."""
        groups = {group: pool.list() for group, pool in self._groups.items()}
        taken = dict.fromkeys(groups, 0)
        left = count
        while left > 0:
            more = [group for group in groups if taken[group] < len(groups[group])][:left]
            for group in more:
                taken[group] += 1
            left -= len(more)
            if not more:
                break
        return [each for group, found in groups.items() for each in found[: taken[group]]]


@dataclass(slots=True)
class Collected:
    """What the walk found.

    Attributes:
        spreads: score -> its spread.
        edges: score -> (BINS + 1,) edges of its bins.
        per_gallery: candidates that are shown of each kind.
        accepted, rejected: (series, score) -> (BINS,) candidates by bin; spare ones count nowhere.
        acceptance: series -> along its requests; `overall`: along all, in the order of the walk.
        walked: position of the last request in the walk, and which it was.
        pools: name -> candidates to show.
        likeness: score that is highest for copies of real images, where a filter writes one.
        nearness: score that is lowest for images near a real one, likewise.
    """

    spreads: dict[str, Spread]
    edges: dict[str, NDArray[np.float64]]
    per_gallery: int
    accepted: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    rejected: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    acceptance: dict[str, Acceptance] = field(default_factory=lambda: defaultdict(Acceptance))
    overall: Acceptance = field(default_factory=Acceptance)
    walked: tuple[int, tuple[str, int] | None] = (-1, None)
    pools: dict[str, Pools] = field(default_factory=dict)
    likeness: str | None = None
    nearness: str | None = None

    def __post_init__(self) -> None:
        names = ("accepted", "rejected", "nearly_rejected", "nearly_accepted", "repeats")
        for name in (*names, "references", "copies", "unauthentic"):
            self.pools[name] = Pools(self.per_gallery)
        self.pools["described"] = Pools(MAX_COMPARED)


def collect(state: RunState, limits: list[Limit], per_gallery: int) -> Collected:
    """Walks over all committed candidates, twice: for the spread of the scores, then for the rest.

    Raises:
        StoreError: damaged data.
    """
    spreads = measure_spreads(state)
    edges = {name: choose_edges(spread, name, limits) for name, spread in spreads.items()}
    found = Collected(spreads, edges, per_gallery)
    judges = state.decider.filters
    found.likeness = next(filter(None, (each.likeness for each in judges)), None)
    found.nearness = next(filter(None, (each.nearness for each in judges)), None)
    read = state.folder, state.outline, state.policy.later
    walk = iterate_decisions(*read, state.survey.decided, COLUMNS)
    for shard, candidates in walk:
        for row, decision in candidates:
            _count(found, row, decision)
        for shown in _describe(state, found, limits, shard, candidates):
            _offer(found, shown)
    return found


def measure_spreads(state: RunState) -> dict[str, Spread]:
    """Returns score -> its spread over all committed candidates, those that have values."""
    spreads = {name: Spread() for name in state.score_names}
    for shard in state.outline.iterate_shards():
        for marker in read_markers(state.folder, shard):
            column = state.folder.read_table(marker, ["scores"])["scores"]
            for part in column.chunks:
                for number, each in enumerate(part.type):
                    if each.name in spreads:
                        values = part.field(number).to_numpy(zero_copy_only=False)
                        spreads[each.name].add(values.astype(np.float64))
    for name in state.policy.later.missing:
        came = (own.get(name) for own in state.policy.later.scores.values())
        spreads[name].add(np.array([value for value in came if value is not None], np.float64))
    return {name: spread for name, spread in spreads.items() if spread.count}


def choose_edges(spread: Spread, name: str, limits: Iterable[Limit]) -> NDArray[np.float64]:
    """Returns (BINS + 1,) edges that span the bulk of a score's values, and its thresholds.

    The first threshold is an edge, so that no bin has scores of both sides.
    """
    mine = [limit for limit in limits if limit.score == name]
    low = max(spread.low, spread.mean - WIDTH * spread.deviation)
    high = min(spread.high, spread.mean + WIDTH * spread.deviation)
    for limit in mine:
        low, high = min(low, *limit.list_values()), max(high, *limit.list_values())
    room = 0.02 * (high - low) or max(abs(low), 1.0) * 0.05
    low, high = low - room, high + room
    width = (high - low) / (BINS - 1)
    if mine:
        value = mine[0].list_values()[0]
        # Scores are rounded: one that equals the threshold passes, on whichever side that is.
        edge = value + (-0.5 if mine[0].is_lower else 0.5) * 10.0**-SCORE_DECIMALS
        low = edge - math.ceil((edge - low) / width) * width
    return np.asarray(low + width * np.arange(BINS + 1))


def _count(found: Collected, row: Mapping[str, Any], decision: Decision) -> None:
    is_accepted = decision.status == "accepted"
    found.acceptance[row["series"]].add(row["index"], decision.status)
    request, (place, last) = (row["series"], row["index"]), found.walked
    if request != last:
        found.walked = (place := place + 1, request)
    found.overall.add(place, decision.status)
    if decision.status == "spare":
        return
    counts = found.accepted if is_accepted else found.rejected
    for name, value in (row["scores"] or {}).items():
        if value is None or math.isnan(value) or name not in found.edges:
            continue
        edges = found.edges[name]
        place = int((value - edges[0]) / (edges[-1] - edges[0]) * BINS)
        bins = counts.setdefault((row["series"], name), [0] * BINS)
        bins[min(max(place, 0), BINS - 1)] += 1


def _describe(
    state: RunState,
    found: Collected,
    limits: list[Limit],
    shard: Shard,
    candidates: list[tuple[dict[str, Any], Decision]],
) -> Iterator[Shown]:
    has_rule = state.recipe.accept is not None
    for row, decision in candidates:
        if decision.status == "spare":
            continue
        margins = measure_margins(limits, found.spreads, row["scores"] or {}, row["class_name"])
        is_accepted = decision.status == "accepted"
        rejected_by = None if is_accepted else decision.rejected_by
        margin = find_nearest_margin(margins, rejected_by, has_rule)
        plain = {name: value for name, value in row.items() if name != "descriptor"}
        known = row["descriptor"] if is_accepted else None
        descriptor = None if known is None else np.asarray(known, np.float16)
        yield Shown(plain, shard, decision, margin, descriptor)


def _offer(found: Collected, shown: Shown) -> None:
    row, decision, pools = shown.row, shown.decision, found.pools
    series = (str(row["series"]),)
    evenly = 0.0
    if decision.status == "accepted":
        pools["accepted"].offer(series, evenly, shown)
        if shown.descriptor is not None:
            pools["described"].offer((), evenly, shown)
        scores = row["scores"] or {}
        _offer_by_score(pools["copies"], scores.get(found.likeness), -1.0, shown)
        _offer_by_score(pools["unauthentic"], scores.get(found.nearness), 1.0, shown)
        if row["reference_sha256"] is not None:
            pools["references"].offer(series, evenly, shown)
    else:
        pools["rejected"].offer((str(decision.rejected_by), *series), evenly, shown)
        if decision.match is not None:
            pools["repeats"].offer(series, evenly, shown)
    if shown.margin is not None:
        name = "nearly_rejected" if decision.status == "accepted" else "nearly_accepted"
        pools[name].offer(series, abs(shown.margin.slack), shown)


def _offer_by_score(pools: Pools, value: float | None, sign: float, shown: Shown) -> None:
    if value is not None and not math.isnan(value):
        pools.offer((), sign * value, shown)
