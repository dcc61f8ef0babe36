"""Verifying: is a data set what it was when it was made, as far as it can tell of itself?"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from factory.core.errors import DamageError, FactoryError, InputError, MissingError
from factory.core.fields import MANY, Option, Options, Seed
from factory.core.hashing import compute_digest
from factory.data.folders import FolderKind
from factory.engine.dataset import DATA, REJECTED, Dataset
from factory.engine.regenerate import MIN_PSNR, Places, Psnr, regenerate_rows
from factory.publish.verify.duplicates import Duplicates
from factory.publish.verify.files import check_counts, check_files, check_schema, check_tars
from factory.publish.verify.findings import Failure, Report
from factory.publish.verify.forgotten import check_forgotten
from factory.publish.verify.rows import RowChecks, read_label_names
from factory.publish.verify.shards import ShardRows
from factory.publish.verify.stops import check_stops

__all__ = ["Failure", "Report", "VerifyOptions", "verify_set"]

ALWAYS_OPEN = (
    "rows, recipe, summary and hashes that were all changed together: compare the commit on the Hub"
)


class VerifyOptions(Options):
    """What to check beyond the files."""

    regenerate: Annotated[int, Option(metavar="N")] = Field(
        0, ge=0, le=MANY, description="Make N accepted rows again, chosen by --seed."
    )
    seed: Seed = Field(0, description="Of the choice of rows.")
    near_duplicates: bool = Field(False, description="Compare all accepted images again, too.")
    places: Annotated[Places, Option(is_hidden=True)] = Places()
    min_psnr: Psnr = MIN_PSNR


def verify_set(
    dataset: Dataset, options: VerifyOptions, say: Callable[[str], None] = lambda line: None
) -> Report:
    """Checks a data set; every failure names file, row and field.

    Args:
        dataset: run folder, or copy.
        options: what to check.
        say: called with one line at the start of each step.

    Raises:
        InputError: a recipe.json that cannot be read; or a merged set, which no recipe made.
    """
    if dataset.kind is FolderKind.MERGED:
        raise InputError(
            f"{dataset.url}: a merged set, whose real images no run made: verify the runs that it "
            "was merged from; merge.json counts what came of each"
        )
    report = Report()
    say("files")
    with _booking(report, "files"):
        check_files(dataset, report)
    walk = _Walk(dataset, options, report)
    say("rows")
    for folder in walk.counts:
        for name in dataset.list_tables(folder):
            with _booking(report, "files", name):
                walk.check_table(folder, name)
    with _booking(report, "counts"):
        check_counts(dataset, walk.counts, walk.checks.classes, report)
    check_tars(dataset, walk.checks.image_hashes, walk.checks.channel_hashes, report)
    with _booking(report, "stops", "summary.json"):
        check_stops(dataset.summary, report)
    if walk.shards is not None:
        with _booking(report, "finalized", "summary.json"):
            walk.shards.check_finished(dataset.summary)
    if walk.shards is not None and walk.checks.decide is not None and dataset.recipe is not None:
        say("selection")
        ids = walk.checks.image_hashes
        walk.shards.check_selection(dataset.recipe, walk.checks.decide, dataset.summary, ids)
    if walk.shards is not None:
        with _booking(report, "forgotten"):
            check_forgotten(dataset, report)
    report.note(ALWAYS_OPEN)
    if options.regenerate:
        say("regenerating")
        _regenerate(dataset, walk.drawn.places, options, report, say)
    return report


class _Walk:
    """One reading of all rows, for every check that looks at them."""

    def __init__(self, dataset: Dataset, options: VerifyOptions, report: Report) -> None:
        self.dataset, self.report = dataset, report
        self.counts = {DATA: 0, REJECTED: 0}
        self.checks = RowChecks(report, dataset.recipe)
        self.drawn = _Drawn(options.regenerate, options.seed)
        has_shards = dataset.kind is FolderKind.RUN
        self.shards = ShardRows(dataset, report) if has_shards else None
        if self.shards is None:
            report.note("what the data set was made from: no .factory/, as this is a copy")
        self.duplicates: Duplicates | None = None
        if options.near_duplicates:
            self.duplicates = Duplicates(report, dataset.recipe)

    def check_table(self, folder: str, name: str) -> None:
        """Checks the schema and all rows of one file.

        Raises:
            StoreError: it is damaged.
        """
        if check_schema(self.dataset, name, self.report):
            return
        class_names = read_label_names(self.dataset.read_schema(name).metadata)
        for row in self.dataset.iterate_rows(name):
            self.counts[folder] += 1
            self.checks.check(row, class_names)
            if self.shards is not None:
                self.shards.check(name, row.values, row.place)
            if folder == DATA:
                self.drawn.offer(str(row.sample_id), name, row.number)
                if self.duplicates is not None:
                    self.duplicates.check(row)


@contextmanager
def _booking(report: Report, check: str, file: str = "") -> Iterator[None]:
    """Books damage as a failure, so that one broken file does not end the verification."""
    try:
        yield
    except (DamageError, MissingError) as error:
        report.fail(check, file, str(error))


class _Drawn:
    """A choice of N rows by a keyed hash of their ids: the order of files changes nothing."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._heap: list[tuple[int, str, str, int]] = []

    def offer(self, sample_id: str, file: str, number: int) -> None:
        if not self.count:
            return
        rank = -int(compute_digest("verify", [self.seed, sample_id])[:15], 16)
        heapq.heappush(self._heap, (rank, sample_id, file, number))
        if len(self._heap) > self.count:
            heapq.heappop(self._heap)

    @property
    def places(self) -> list[tuple[str, int]]:
        """(file, position) of each, by file."""
        return sorted((file, number) for _, _, file, number in self._heap)


def _regenerate(
    dataset: Dataset,
    places: Iterable[tuple[str, int]],
    options: VerifyOptions,
    report: Report,
    say: Callable[[str], None],
) -> None:
    chosen = list(places)
    if dataset.recipe is None:
        report.leave("regenerated", "needs recipe.json, which says where the model is", len(chosen))
        return
    try:
        rows = [dataset.read_row(*place) for place in chosen]
        values = [row.values for row in rows]
        report.rebuilt = regenerate_rows(
            values, dataset.recipe, options.places, options.min_psnr, say
        )
    except InputError as error:
        report.leave("regenerated", str(error), len(chosen))
        return
    except FactoryError as error:
        report.fail("regenerated", DATA, str(error))
        return
    for row, rebuilt in zip(rows, report.rebuilt, strict=True):
        if rebuilt.status == "not checked":
            report.leave("regenerated", rebuilt.reason)
            continue
        report.checked["regenerated"] += 1
        if rebuilt.status == "different":
            report.fail("regenerated", row.file, str(rebuilt), row.place, "image")
