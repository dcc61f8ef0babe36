"""Rounds of tasks: all shards, test by test where series may end early, then what is topped up."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from factory.data.records import Shard
from factory.engine.drain import Drain
from factory.engine.executors import Notify, Outcome, Pool, Watch, open_pool
from factory.engine.executors.machines import Machines
from factory.engine.finalise import Policy, Survey, survey_run
from factory.engine.parts import PARTS
from factory.engine.plan import Outline, Plan
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.stopping import Stopping
from factory.engine.task import Order, Task
from factory.recipe.recipe import is_judging


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told of a run: of outcomes, of steps, of progress; and whether it is to stop."""

    notify: Notify
    say: Callable[[str], None]
    watch: Watch
    drain: Drain


@dataclass(slots=True)
class Rounds:
    """Fills a run: shards, and requests that go on.

    Args:
        order: what workers start with.
        folder: run folder, held.
        plan: of the whole run.
        policy: how candidates are selected.
        told: who is told.
        machines: of the run; workers leave them when all is filled.
        stopping: tests of series that may end early; None: none does.

    Attributes:
        plan: at the end, that of the series as they ended.
    """

    order: Order
    folder: RunFolder
    plan: Plan
    policy: Policy
    told: Told
    machines: Machines
    stopping: Stopping | None = None
    _failed: dict[str, Shard] = field(default_factory=dict)
    _workers: set[str] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)
    _at_work: dict[tuple[str, int], Shard] = field(default_factory=dict)
    _drawn: int = 0

    def fill(self, first: Marker | None) -> Survey:
        """Fills all shards, then goes on with requests that lost their image to a near-duplicate.

        Args:
            first: a marker of what was begun before.

        Returns:
            The survey of what is committed at the end.
        """
        begun_with = first.worker if first else None
        told = self.told
        with open_pool(self.order, begun_with, told.say, told.drain, self.machines) as pool:
            if self.stopping is not None:
                self._fill_tested(pool, self.stopping)
            if self.stopping is None or self.stopping.is_over:
                self._fill(pool, self._draw_open(self.plan))
            survey = self._survey()
            self._failed.clear()
            while survey.goes_on and not survey.missing:
                self.told.say(f"topping up {count_open(survey).total()} requests")
                self.told.watch.recount(survey.filled, count_open(survey))
                self._fill(pool, map(self._ask, survey.goes_on))
                survey = self._survey()
                if self._failed:
                    break
        if not survey.missing:
            self.folder.files.remove(PARTS)
        if not self._drawn:
            judged = is_judging(self.order.recipe)
            self.told.say(describe_complete(survey, self.plan, judged))
        return survey

    def _survey(self) -> Survey:
        return survey_run(self.folder, self.plan, self.policy, self.machines)

    def _fill_tested(self, pool: Pool, stopping: Stopping) -> None:
        """Fills block after block until no series is left to test; cuts the plan where they ended.

        A shard that fails ends it: what cannot be tested yet is not made.
        """
        while not stopping.is_over and not self._lacks(stopping.cut()):
            before = self._drawn, stopping.blocks, stopping.tests
            self._fill(pool, self._draw_tested(stopping))
            if before == (self._drawn, stopping.blocks, stopping.tests):
                break
        self.plan = self.plan.cut(stopping.stops)
        for record in self.folder.list_quarantined():
            self._release_beyond(record.shard)

    def _draw_tested(self, stopping: Stopping) -> Iterator[Task]:
        """Yields the shards up to each test; while some are at work, those of the next block."""
        while not stopping.is_over:
            now = stopping.cut()
            yield from self._draw_open(now)
            ahead = self._draw_open(stopping.cut(ahead=1))
            while any(now.wants(shard.series, shard.start) for shard in self._at_work.values()):
                task = next(ahead, None)
                if task is None:
                    return
                yield task
            if self._lacks(now):
                return
            survey = survey_run(self.folder, now, self.policy, keeps=True)
            if survey.missing:
                return
            if survey.goes_on:
                yield from map(self._ask, survey.goes_on)
            else:
                stopping.decide(survey)

    def _lacks(self, plan: Plan) -> bool:
        """Whether a shard of a plan failed."""
        return any(plan.wants(each.series, each.start) for each in self._failed.values())

    def _draw_open(self, plan: Plan) -> Iterator[Task]:
        """Yields the tasks of shards that are not committed; tells of those that are, once."""
        for shard in plan.iterate_shards():
            if shard.id in self._done or (shard.id, 0) in self._at_work:
                continue
            task = Task(shard)
            marker = self.folder.read_marker(shard)
            if marker is not None and self._is_sound(marker):
                self._done.add(shard.id)
                self.told.notify(Outcome(task, marker, is_new=False))
                continue
            if not self._drawn:
                self.told.say("judging" if is_judging(self.order.recipe) else "generating")
            yield self._ask(task)

    def _is_sound(self, marker: Marker) -> bool:
        """Tells whether nothing is to be made: a worker writes its lost description again."""
        if marker.worker not in self._workers and self.folder.has_worker(marker.worker):
            self._workers.add(marker.worker)
        return marker.worker in self._workers

    def _ask(self, task: Task) -> Task:
        self._drawn += 1
        self._at_work[task.shard.id, task.round] = task.shard
        return task.ask(self.plan, self.order.recipe.budget.attempts)

    def _fill(self, pool: Pool, tasks: Iterable[Task]) -> None:
        with self.told.drain.listen():
            pool.fill(iter(tasks), self._book, self.told.watch.report)

    def _book(self, outcome: Outcome) -> None:
        """Hands an outcome on, and keeps what ended and whether a shard failed."""
        task = outcome.task
        self._at_work.pop((task.shard.id, task.round), None)
        if outcome.marker is None:
            self._failed[task.shard.id] = task.shard
        else:
            self._failed.pop(task.shard.id, None)
            self._done.add(task.shard.id)
        self.told.notify(outcome)

    def _release_beyond(self, name: str) -> None:
        """Forgets the quarantine of a shard that lies beyond the end of its series."""
        for shard in self.plan.cut({}).iterate_shards():
            if shard.id == name and not self.plan.wants(shard.series, shard.start):
                self.folder.release(shard, 0)


def count_open(survey: Survey) -> Counter[str]:
    """Returns the requests of each series that go on."""
    counts: Counter[str] = Counter()
    for task in survey.goes_on:
        counts[task.shard.series] += len(task.starts or ())
    return counts


def describe_complete(survey: Survey, plan: Outline, judged: bool) -> str:
    """Says that a run has nothing left to make, or to judge."""
    asked = sum(plan.count_wanted(key, each.asked) for key, each in survey.funnel.items())
    if judged:
        return f"already complete: {asked:,} of {asked:,} judged"
    if survey.accepted >= asked:
        return f"already complete: {survey.accepted:,} of {asked:,}"
    return (
        f"nothing left to make: {survey.accepted:,} of {asked:,}, all tries of budget.attempts are "
        "spent"
    )
