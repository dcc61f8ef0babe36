"""`budget.stop`: tests of series block by block, and where each ends, the same however it is made.

A test looks at the first requests of a series once all of them are settled, as if no more had been
asked for. So neither workers nor the order of shards nor a kill changes what it sees. What it found
is kept in the run record; it is taken from there as long as the images are the same.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from factory.core.errors import InputError, MismatchError
from factory.core.metrics.growing import Growth
from factory.data.records import SCORE_DECIMALS
from factory.data.summary import StopTest
from factory.engine.finalise import Survey
from factory.engine.plan import Plan
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import RunRecord, StopRecord
from factory.engine.stop_figures import (
    Accuracies,
    Distances,
    Figures,
    SeenImages,
    Source,
    compute_real_digest,
)
from factory.filters.real.set import RealSet
from factory.models.session import Session
from factory.recipe.conditions import Series
from factory.recipe.ending import FIRST, check_series, read_real
from factory.recipe.stop import FIGURES, Stop

CHANGE = ("change", "low", "high")


def open_record(
    rule: Stop | None, session: Session, url: str, last: RunRecord | None, asked: Container[str]
) -> tuple[StopRecord | None, RealSet | None]:
    """Returns what was tested so far, and the real images; None where no series ends early.

    Raises:
        SourceError: the real images cannot be read, or are too few.
        MismatchError: they are not those that the run began with.
    """
    if rule is None:
        return None, None
    real = read_real(rule, session, asked)
    sha256 = compute_real_digest(rule, real)
    kept = None if last is None else last.stop
    if kept is not None and kept.real_sha256 != sha256:
        raise MismatchError(
            f"{url}: budget.stop.images: {real.root} holds other images than those that the run "
            "began with; nothing was touched. Bring them back, or use another --out"
        )
    return kept or StopRecord(real_images=len(real.images), real_sha256=sha256), real


@dataclass(slots=True)
class Stopping:
    """The tests of a run's series.

    Args:
        rule: of the recipe.
        session: that the encoder is loaded in.
        folder: run folder, held.
        plan: of the whole run.
        record: run record with what was tested so far.
        real: images that are compared with.
        say: called with one line for each test.

    Attributes:
        blocks: of each series that is looked at next.
    """

    rule: Stop
    session: Session
    folder: RunFolder
    plan: Plan
    record: RunRecord
    real: RealSet
    say: Callable[[str], None]
    blocks: int = FIRST
    _source: Source = field(init=False)
    _figures: Figures = field(init=False)

    def __post_init__(self) -> None:
        if found := check_series(self.plan.series, self.rule, self.real):
            raise InputError(f"{self.folder.url}: budget.stop.{found[0]}: {found[1]}")
        counts = [(part.key, part.count) for part in self.plan.series]
        stop = self.record.stop
        if stop is not None and (problem := stop.find_problem(counts, self.rule)):
            self.say(f"budget.stop: run.json holds {problem}: all are tested anew")
            self._write(())
        self._source = Source(self.rule, self.session, self.folder, self.plan, self.real)
        self._begin()
        while self.tests and all(self._find_test(part) for part in self._list_open()):
            if self.is_over:
                break
            self.blocks += 1
        self.blocks = max(FIRST, self.blocks - 1)  # what was tested last is compared once again

    @property
    def tests(self) -> tuple[StopTest, ...]:
        """All tests so far."""
        return () if self.record.stop is None else self.record.stop.tests

    @property
    def stops(self) -> dict[str, int]:
        """Series -> requests after which it ended."""
        return {} if self.record.stop is None else self.record.stop.stops

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to test."""
        return not self._list_open()

    def cut(self, ahead: int = 0) -> Plan:
        """Returns the plan up to the next test, or so many blocks farther."""
        end = (self.blocks + ahead) * self.rule.every
        stops = self.stops
        limits = {part.key: min(end, stops.get(part.key, end)) for part in self.plan.series}
        return self.plan.cut(limits)

    def decide(self, survey: Survey) -> None:
        """Tests every series that goes on, once all requests of `cut()` are settled.

        Args:
            survey: of them, complete, with the images that it kept.

        Raises:
            StoreError: damaged data.
            InputError: the encoder cannot be had.
            SourceError: a real image cannot be read any more.
        """
        kept = {part.key: sorted(survey.kept.get(part.key, ())) for part in self.plan.series}
        samples = SeenImages(self.rule, self.plan.series)
        for key, each in kept.items():
            for index, name in each:
                samples.add(key, index, name)
        if any(not self._is_same(part, samples) for part in self.plan.series):
            self.say("budget.stop: other images than those that were tested: all are tested anew")
            self._write(())
            self._begin()
            self.blocks = FIRST
            return
        new = [part for part in self._list_open() if self._find_test(part) is None]
        if new:
            found = self._figures.measure(new, kept, self.blocks)
            tests = [
                self._book(part, len(kept[part.key]), samples, growth)
                for part, growth in zip(new, found, strict=True)
            ]
            self._write((*self.tests, *tests))
        self.blocks += 1

    def _begin(self) -> None:
        kind = Accuracies if self.rule.is_joint else Distances
        self._figures = kind(self._source)

    def _list_open(self) -> list[Series]:
        """Series that ask for more than the next test looks at, and did not end before it."""
        end, stops = self.blocks * self.rule.every, self.stops
        return [p for p in self.plan.series if p.count > end and stops.get(p.key, end) >= end]

    def _find_test(self, part: Series) -> StopTest | None:
        at = self.blocks * self.rule.every
        return next((each for each in self.tests if (each.series, each.at) == (part.key, at)), None)

    def _is_same(self, part: Series, samples: SeenImages) -> bool:
        """Whether the last test that can be compared saw these images."""
        end = self.blocks * self.rule.every
        mine = [each for each in self.tests if each.series == part.key and each.at <= end]
        return not mine or mine[-1].sample == samples.find(part.key, mine[-1].at)

    def _book(
        self, part: Series, images: int, samples: SeenImages, growth: Growth | None
    ) -> StopTest:
        """Returns what a test of a series found, and says it."""
        at = self.blocks * self.rule.every
        found = None if growth is None else growth.round(SCORE_DECIMALS)
        told = {} if found is None else {"before": found.before, "after": found.after}
        test = StopTest(
            series=part.key,
            at=at,
            images=images,
            sample=samples.find(part.key, at),
            **told,
            **({} if found is None else dict(zip(CHANGE, found.change, strict=True))),
            **({} if found is None else self._figures.told),
            stops=found is not None and found.is_within(self.rule.tolerance),
        )
        self.say(f"{part.label}: {describe_test(test, self.rule.when)}")
        return test

    def _write(self, tests: tuple[StopTest, ...]) -> None:
        assert self.record.stop is not None
        stop = self.record.stop.model_copy(update={"tests": tests})
        self.record = self.record.model_copy(update={"stop": stop})
        self.folder.confirm()
        self.folder.write_run(self.record)


def describe_test(test: StopTest, when: str) -> str:
    """Says what one test found; `when` is that of the rule."""
    said = f"after {test.at:,} requests ({test.images:,} accepted)"
    ends, figure = "ends here" if test.stops else "goes on", FIGURES[when]
    change = figure.write(test)
    if not change:
        return f"{said}: too few accepted images to test"
    return f"{said} the newest block changed {figure.short} by {change}: {ends}"
