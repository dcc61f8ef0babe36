"""Finalizing, first part: selects over the whole set from ids, scores and descriptors alone."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from factory.data.records import STOPPED, Shard
from factory.engine.bags import Bags
from factory.engine.committed import (
    PLACES,
    count_tried,
    iterate_rows,
    keep_wanted,
    read_markers,
    read_rows,
)
from factory.engine.decided import Decided, DecidedShard
from factory.engine.diversity import Pick
from factory.engine.executors import choose_executor
from factory.engine.executors.machines import HERE, Machines
from factory.engine.families import LEFT_OUT, Families
from factory.engine.later import Later
from factory.engine.near_pairs import EXACT
from factory.engine.plan import Outline
from factory.engine.repeats import TakenIds, WalkedSeries, open_repeats
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.run_records import name_reason
from factory.engine.selection import (
    NOT_PICKED,
    Decision,
    GroupQuota,
    PickPools,
    Selector,
    SeriesFunnel,
    read_seen,
)
from factory.engine.task import Task
from factory.filters import Decide
from factory.recipe.conditions.series import find_bag_size, find_quotas, find_shares, find_sizes
from factory.recipe.early import Early

SUMMARY = "summary.json"
"""Written after the data set, so that without it the data set is written again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How candidates are selected: None for `decide` trusts the verdicts of the workers.

    `pick` chooses among the accepted images of each series once all are there, by `seed`; `later`
    are scores that came after the run; `early` says which tries looked hopeless part-way.
    """

    attempts: int
    max_similarity: float | None
    decide: Decide | None = None
    pick: Pick | None = None
    seed: int = 0
    later: Later = field(default_factory=Later)
    early: Early | None = None


@dataclass(slots=True)
class Survey:
    """What a walk over all committed shards found."""

    funnel: dict[str, SeriesFunnel] = field(default_factory=lambda: defaultdict(SeriesFunnel))
    goes_on: list[Task] = field(default_factory=list)
    missing: list[Shard] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)
    shards: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokenizer -> candidates whose prompt it cut, and tokens that it dropped of them."""
    filled: dict[str, int] = field(default_factory=dict)
    """Requests of each series that have their image, those that a pick leaves out among them."""
    decided: Decided = field(default_factory=Decided)
    """What became of each candidate."""
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Series -> index and sample id of its accepted images, where they were asked for."""

    def count_marker(self, marker: Marker) -> None:
        """Counts what a marker says."""
        self.workers.add(marker.worker)
        self.shards.append(marker.sha256)
        for name, value in marker.seconds.items():
            self.seconds[name] += value
        for name, (count, dropped) in marker.cut.items():
            before = self.cut.get(name, (0, 0))
            self.cut[name] = before[0] + count, before[1] + dropped

    def keep(
        self, series: str, candidates: list[dict[str, Any]], decisions: list[Decision]
    ) -> None:
        """Notes the accepted image of a request."""
        accepted = (
            (row["index"], row["sample_id"])
            for row, decision in zip(candidates, decisions, strict=True)
            if decision.status == "accepted"
        )
        self.kept.setdefault(series, []).extend(accepted)

    @property
    def accepted(self) -> int:
        """Accepted rows over all series."""
        return sum(each.accepted for each in self.funnel.values())

    @property
    def others(self) -> int:
        """Candidates that were not taken."""
        return sum(each.generated - each.accepted for each in self.funnel.values())


@dataclass(frozen=True, slots=True)
class Selected:
    """A run whose candidates are selected: `survey` was made by `policy`, of `plan`."""

    folder: RunFolder
    plan: Outline
    policy: Policy
    survey: Survey


def survey_run(
    folder: RunFolder,
    plan: Outline,
    policy: Policy,
    machines: Machines = HERE,
    keeps: bool = False,
) -> Survey:
    """Selects over all committed shards without reading an image.

    Args:
        folder: run folder; machines elsewhere find descriptors in it meanwhile.
        plan: its series and shards.
        policy: how candidates are selected.
        machines: that look for near-duplicates where images are many; by default this process,
            and nothing is written.
        keeps: note the accepted images of each series, by request (`kept`).

    Returns:
        The funnel, the shards without a marker, and the further rounds for near-duplicates and
        for shots over their quota.

    Raises:
        StoreError: a shard is damaged.
    """
    judge = Selector(policy.decide, None, set()).judge
    is_large = policy.max_similarity is not None and plan.count_requests() > EXACT
    is_spread = is_large and choose_executor(machines.workers) == "ray"
    if is_spread:
        machines.begin()
    places = (machines, folder.files) if is_spread else ()
    with open_repeats(policy.max_similarity, *places) as repeats:
        read = iterate_rows(folder, plan, list_compared(policy), policy.later)
        repeats.find(((shard.series, rows) for shard, rows in read), judge)
        while True:
            walks = repeats.begin_walks()
            survey = _walk(folder, plan, policy, repeats.repeated, walks, keeps)
            if repeats.complete(walks):
                return survey


def _walk(
    folder: RunFolder,
    plan: Outline,
    policy: Policy,
    repeated: frozenset[int],
    walks: Mapping[str, WalkedSeries],
    keeps: bool,
) -> Survey:
    survey = Survey()
    for part in plan.series:
        funnel = survey.funnel[part.key]
        funnel.asked, funnel.shares = part.count, find_shares(part)
    selectors = _Selectors(plan, policy, repeated, walks)
    pools = PickPools(policy.pick, policy.seed)
    families = Families({each.key: sizes for each in plan.series if (sizes := find_sizes(each))})
    bags = Bags({each.key: size for each in plan.series if (size := find_bag_size(each))})
    watching: list[PickPools | Families | Bags] = [each for each in (families, bags) if each.sizes]
    watching += [pools] if policy.pick is not None else []
    leaves_out = policy.pick is not None or bool(families.sizes)
    columns = (*list_walked(policy), *pools.columns, *families.columns, *bags.columns)
    saying = (*columns, "provenance")
    for shard in plan.iterate_shards():
        markers = read_markers(folder, shard)
        if not markers:
            survey.missing.append(shard)
            continue
        for marker in markers:
            survey.count_marker(marker)
        funnel = survey.funnel[shard.series]
        is_telling = funnel.shares or selectors.reads_groups(shard)
        told = saying if is_telling else columns
        rows = keep_wanted(plan, read_rows(folder, markers, told, policy.later))
        made = count_tried(markers)
        decided: list[Decision] = []
        for index, candidates, decisions in selectors.select(shard, rows):
            decided += decisions
            if _count(funnel, candidates, decisions):
                made.pop(index, None)
            else:
                made[index] = max(made.get(index, 0), candidates[-1]["attempt"] + 1)
            _count_early(funnel, candidates, policy)
            for each in watching:
                each.add(shard.series, candidates, decisions)
            if keeps:
                survey.keep(shard.series, candidates, decisions)
        names = _name_accepted(rows, decided) if leaves_out else ()
        survey.decided.add(DecidedShard(shard, len(markers), decided, names))
        wanted = plan.count_wanted(shard.series, shard.stop)
        starts = {
            index: done
            for index, done in sorted(made.items())
            if done < policy.attempts and index < wanted
        }
        if starts:
            survey.goes_on.append(Task(shard, len(markers), starts))
    survey.filled = {key: funnel.accepted for key, funnel in survey.funnel.items()}
    bags.tell(survey.funnel)
    left_out = pools.pick(survey.funnel) | families.leave_out(survey.funnel)
    survey.decided.leave_out(left_out, LEFT_OUT if policy.pick is None else NOT_PICKED)
    return survey


def _name_accepted(rows: list[dict[str, Any]], decisions: list[Decision]) -> list[str]:
    both = zip(rows, decisions, strict=True)
    return [row["sample_id"] for row, decision in both if decision.status == "accepted"]


class _Selectors:
    """One selector per series, walked shard by shard."""

    def __init__(
        self,
        plan: Outline,
        policy: Policy,
        repeated: frozenset[int],
        walks: Mapping[str, WalkedSeries],
    ) -> None:
        self.policy, self.walks = policy, walks
        self.quotas = {part.key: find_quotas(part) for part in plan.series}
        self.by_series: dict[str, Selector] = {}
        self.taken = TakenIds(repeated)

    def reads_groups(self, shard: Shard) -> bool:
        """Whether a quota asks whose images rows vary, which their provenance tells."""
        return GroupQuota.field in self.quotas[shard.series]

    def select(
        self, shard: Shard, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[int, list[dict[str, Any]], list[Decision]]]:
        if shard.series not in self.by_series:
            policy = self.policy
            quotas = self.quotas[shard.series]
            known = policy.decide, policy.max_similarity, self.taken, quotas
            selector = Selector(*known, self.walks.get(shard.series))
            self.by_series[shard.series] = selector
        selector = self.by_series[shard.series]
        for index, group in itertools.groupby(rows, itemgetter("index")):
            candidates = list(group)
            yield index, candidates, selector.select(candidates)


def _count(
    funnel: SeriesFunnel, candidates: list[dict[str, Any]], decisions: list[Decision]
) -> bool:
    is_filled = False
    for candidate, decision in zip(candidates, decisions, strict=True):
        funnel.generated += 1
        if decision.status == "accepted":
            funnel.accepted += 1
            is_filled = True
            funnel.note(read_seen(candidate))
        elif decision.status == "spare":
            funnel.spare += 1
        else:
            funnel.rejected[str(decision.rejected_by)] += 1
            funnel.reasons[f"{decision.rejected_by}: {name_reason(decision.reason)}"] += 1
    return is_filled


def _count_early(
    funnel: SeriesFunnel, candidates: Sequence[Mapping[str, Any]], policy: Policy
) -> None:
    """Counts what was looked at part-way, and what the filters say of the hopeless that went on."""
    if policy.early is None:
        return
    if funnel.early is None:
        funnel.early = Counter(looked=0, stopped=0, checked=0, passed=0)
    judge = Selector(policy.decide, None, set()).judge
    for candidate in candidates:
        scores = candidate["scores"] or {}
        is_stopped = (scores.get(STOPPED) or 0.0) > 0
        is_hopeless = policy.early.is_hopeless(scores, candidate["class_name"])
        is_checked = is_hopeless and not is_stopped
        funnel.early.update(
            looked=1,
            stopped=is_stopped,
            checked=is_checked,
            passed=is_checked and judge(candidate).accepted,
        )


def list_compared(policy: Policy) -> tuple[str, ...]:
    """Returns the columns that tell of repeats."""
    compared = () if policy.max_similarity is None else ("descriptor", *_list_judged(policy))
    return (*PLACES, "sample_id", *compared)


def list_walked(policy: Policy) -> tuple[str, ...]:
    """Returns the columns by which candidates are selected and counted."""
    scored = ("scores", "class_name") if policy.early or policy.pick else ()
    found = (*PLACES, "sample_id", "reference_sha256", *_list_judged(policy), *scored)
    return tuple(dict.fromkeys(found))


def _list_judged(policy: Policy) -> tuple[str, ...]:
    return ("scores", "class_name") if policy.decide else ("accepted", "rejected_by", "reason")
