"""`budget.stop`: tests of series block by block, and where each ends, the same however it is made.

A test looks at the first requests of a series once all of them are settled, as if no more had been
asked for. So neither workers nor the order of shards nor a kill changes what it sees. What it found
is kept in the run record; it is taken from there as long as the images are the same.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from factory.core.errors import InputError, MismatchError
from factory.core.hashing import compute_digest
from factory.core.metrics.growing import GrowingSet
from factory.data.records import SCORE_DECIMALS
from factory.data.summary import StopTest
from factory.engine.committed import read_markers
from factory.engine.finalise import Policy, Survey, iterate_decisions
from factory.engine.plan import Plan
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import RunRecord, StopRecord
from factory.filters.real.set import RealSet
from factory.models.session import Session
from factory.recipe.conditions import Series
from factory.recipe.ending import FIRST, check_series, read_real
from factory.recipe.stop import Stop

COLUMNS = ("sample_id", "features", "width", "height")
CHANGE = ("change", "low", "high")

Kept = Sequence[tuple[int, str]]
"""Index and sample id of the accepted images of a series, in order."""
Size = tuple[int, int]
"""Height and width in px."""


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
    kept = None if last is None else last.stop
    if kept is not None and kept.real_sha256 != real.sha256:
        raise MismatchError(
            f"{url}: budget.stop.images: {real.root} holds other images than those that the run "
            "began with; nothing was touched. Bring them back, or use another --out"
        )
    return kept or StopRecord(real_images=len(real.images), real_sha256=real.sha256), real


class BlockDigests:
    """Digests of the accepted images of a series, block after block; keeps one block of ids.

    Args:
        every: requests of a block.
    """

    def __init__(self, every: int) -> None:
        self._every, self._names = every, list[str]()
        self._found: dict[int, str] = {}
        self._last = ""

    def add(self, index: int, name: str) -> None:
        """Takes the next accepted image, in the order of the requests."""
        self._close(index)
        self._names.append(name)

    def find(self, at: int) -> str:
        """Returns the digest of those among the first `at` requests, a number of blocks."""
        self._close(at)
        return self._found[at]

    def _close(self, index: int) -> None:
        while (end := (len(self._found) + 1) * self._every) <= index:
            self._last = compute_digest("stop test", [self._last, self._names])
            self._found[end], self._names = self._last, []


@dataclass(slots=True)
class Stopping:
    """The tests of a run's series.

    Args:
        rule: of the recipe.
        session: that the encoder is loaded in.
        folder: run folder, held.
        plan: of the whole run.
        policy: how candidates are selected.
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
    policy: Policy
    record: RunRecord
    real: RealSet
    say: Callable[[str], None]
    blocks: int = FIRST
    _sets: dict[str, GrowingSet] = field(default_factory=dict)
    _encoded: dict[Size, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := check_series(self.plan.series, self.rule):
            raise InputError(f"{self.folder.url}: {problem}")
        counts = [(part.key, part.count) for part in self.plan.series]
        stop = self.record.stop
        if stop is not None and (problem := stop.find_problem(counts, self.rule)):
            self.say(f"budget.stop: run.json holds {problem}: all are tested anew")
            self._write(())
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
            survey: of them, complete.

        Raises:
            StoreError: damaged data.
            InputError: the encoder cannot be had.
            SourceError: a real image cannot be read any more.
        """
        kept = self._list_kept(survey)
        if any(not self._is_same(part, kept[part.key]) for part in self.plan.series):
            self.say("budget.stop: other images than those that were tested: all are tested anew")
            self._write(())
            self._sets, self.blocks = {}, FIRST
            return
        new = [part for part in self._list_open() if self._find_test(part) is None]
        if new:
            self._write((*self.tests, *(self._test(part, kept[part.key]) for part in new)))
        self.blocks += 1

    def _list_open(self) -> list[Series]:
        """Series that ask for more than the next test looks at, and did not end before it."""
        end, stops = self.blocks * self.rule.every, self.stops
        return [p for p in self.plan.series if p.count > end and stops.get(p.key, end) >= end]

    def _find_test(self, part: Series) -> StopTest | None:
        at = self.blocks * self.rule.every
        return next((each for each in self.tests if (each.series, each.at) == (part.key, at)), None)

    def _is_same(self, part: Series, kept: Kept) -> bool:
        """Whether the last test that can be compared saw these images."""
        end = self.blocks * self.rule.every
        mine = [each for each in self.tests if each.series == part.key and each.at <= end]
        return not mine or mine[-1].sample == self._digest(kept, mine[-1].at)

    def _digest(self, kept: Kept, at: int) -> str:
        """Returns the digest of the accepted images among the first `at` requests."""
        digests = BlockDigests(self.rule.every)
        for index, name in kept:
            digests.add(index, name)
        return digests.find(at)

    def _list_kept(self, survey: Survey) -> dict[str, list[tuple[int, str]]]:
        kept: dict[str, list[tuple[int, str]]] = {part.key: [] for part in self.plan.series}
        walk = iterate_decisions(self.folder, self.cut(), self.policy, survey)
        for shard, decided in walk:
            for row, decision in decided:
                if decision.status == "accepted":
                    kept[shard.series].append((row["index"], row["sample_id"]))
        return {key: sorted(each) for key, each in kept.items()}

    def _write(self, tests: tuple[StopTest, ...]) -> None:
        assert self.record.stop is not None
        stop = self.record.stop.model_copy(update={"tests": tests})
        self.record = self.record.model_copy(update={"stop": stop})
        self.folder.confirm()
        self.folder.write_run(self.record)

    def _test(self, part: Series, kept: Kept) -> StopTest:
        """Tests the newest block of a series."""
        known = self._sets.get(part.key)
        for block in range(0 if known is None else known.blocks, self.blocks):
            features, size = self._read_features(part, kept, block)
            if known is None and len(features):
                real = self._choose_real(part, size)
                known = self._sets[part.key] = GrowingSet(real, block)
            if known is not None:
                known.add(features)
        at = self.blocks * self.rule.every
        found = None if known is None else known.compare(self.rule.confidence)
        growth = None if found is None else found.round(SCORE_DECIMALS)
        told = {} if growth is None else {"before": growth.before, "after": growth.after}
        test = StopTest(
            series=part.key,
            at=at,
            images=len(kept),
            sample=self._digest(kept, at),
            **told,
            **({} if growth is None else dict(zip(CHANGE, growth.change, strict=True))),
            stops=growth is not None and growth.is_within(self.rule.tolerance),
        )
        self.say(f"{part.label}: {describe_test(test)}")
        return test

    def _read_features(
        self, part: Series, kept: Kept, block: int
    ) -> tuple[NDArray[np.float32], Size]:
        """Returns (N, D) features of the accepted images of a block, in order, and their size."""
        start, stop = block * self.rule.every, (block + 1) * self.rule.every
        wanted = [name for index, name in kept if start <= index < stop]
        named, found = {*wanted}, {}
        for shard in self.plan.iterate_shards():
            if shard.series != part.key or shard.stop <= start or shard.start >= stop:
                continue
            for marker in read_markers(self.folder, shard):
                table = self.folder.read_table(marker, COLUMNS)
                names = pa.array(named, pa.string())
                for row in table.filter(pc.is_in(table["sample_id"], names)).to_pylist():
                    found[row["sample_id"]] = row
        rows = [found[name] for name in wanted]
        size = (rows[0]["height"], rows[0]["width"]) if rows else (0, 0)
        return np.array([row["features"] for row in rows], np.float32), size

    def _choose_real(self, part: Series, size: Size) -> NDArray[np.float32]:
        """Returns the features of real images at this size, of the class of a series."""
        if size not in self._encoded:
            encoder = self.session.encoders.load(self.rule.encoder, self.session.base)
            blocks = self.real.iterate_blocks(size[1], size[0], self.rule.fit)
            self._encoded[size] = np.concatenate([encoder.encode(block) for block in blocks])
        is_one = len(part.class_names) == 1 and self.real.class_names
        name = part.class_names[0] if is_one else None
        chosen = [name in (None, image.class_name) for image in self.real.images]
        return self._encoded[size][chosen]


def describe_test(test: StopTest) -> str:
    """Says what one test found."""
    said = f"after {test.at:,} requests ({test.images:,} accepted)"
    if test.change is None or test.low is None or test.high is None:
        return f"{said}: too few accepted images to test"
    ends = "ends here" if test.stops else "goes on"
    return (
        f"{said} the newest block changed the distance by {-test.change:+.2%} ({-test.high:+.2%} "
        f"to {-test.low:+.2%}): {ends}"
    )
