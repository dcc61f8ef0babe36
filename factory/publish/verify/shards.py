"""Checks of a run folder: its shards, what selection makes of them, and the rows that follow."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from factory.core.errors import FactoryError, StoreError
from factory.core.files.disk_map import DiskMap
from factory.core.hashing import compute_digest
from factory.data.schema import CONTENT_COLUMNS
from factory.data.summary import Maker, Summary
from factory.engine.continuing import read_outline
from factory.engine.dataset import DATA, Dataset
from factory.engine.decided import iterate_decisions
from factory.engine.finalise import survey_run
from factory.engine.forgotten import read_forgotten
from factory.engine.later import Later, read_later
from factory.engine.run import build_policy
from factory.engine.run_folder import Marker, RunFolder, RunRecord
from factory.engine.run_records import name_worker
from factory.engine.stop_figures import SeenImages
from factory.engine.summary import describe_unfinished
from factory.filters import Decide
from factory.publish.verify.findings import Report
from factory.publish.verify.stops import TestedImages
from factory.recipe.recipe import Recipe, restore_recipe, select_deciding

COMPARED = (*(name for name, _ in CONTENT_COLUMNS if name != "image"), "scores", "provenance")
"""Columns that a final row has from its shard; the image is compared by its hash."""


class ShardRows:
    """What the shards of a run hold of each candidate, to compare the final rows with.

    Args:
        dataset: a run folder.
        report: where findings go.
    """

    def __init__(self, dataset: Dataset, report: Report) -> None:
        self.folder, self.report = RunFolder(dataset.url), report
        self.markers: list[Marker] = []
        self.missing = 0
        self.makers: dict[str, Maker | None] = {}
        self.digests: DiskMap[tuple[int, str]] = DiskMap()
        self.later = Later()
        try:
            if dataset.recipe is not None:
                self.later = read_later(self.folder, dataset.recipe)
            self._read()
        except FactoryError as error:
            report.fail("shards", ".factory/", str(error))

    def check(self, file: str, values: Mapping[str, Any], place: str) -> None:
        """Compares one final row with its shard's."""
        known = self.digests.get(str(values.get("sample_id")))
        self.report.checked["shard rows"] += 1
        if known is None:
            if self.digests:
                self.report.fail("shard rows", file, "is in no shard", place, "sample_id")
            return
        if _digest(values) == known[1]:
            return
        marker = self.markers[known[0]]
        found = self.folder.read_rows(marker, {values["sample_id"]}, COMPARED)
        self.later.lay_over(found)
        for name in COMPARED:
            if found and _plain(values.get(name)) != _plain(found[0].get(name)):
                message = f"{_shorten(values.get(name), found[0].get(name))}, as the shard says"
                self.report.fail("shard rows", file, message, place, name)

    def check_finished(self, summary: Summary | None) -> None:
        """Compares what is committed with what the data set says that it was made of."""
        candidates = sum(marker.rows for marker in self.markers)
        problem = describe_unfinished(summary, self.missing, candidates)
        self.report.checked["finalized"] += 1
        if problem:
            remedy = "run the recipe into it again, to the end"
            self.report.fail("finalized", "summary.json", f"not finalized: {problem}: {remedy}")
        made = tuple(self.makers[digest] for digest in sorted(self.makers))
        if summary is not None and not problem and all(made) and summary.makers != made:
            message = "are not what the records of the workers say"
            self.report.fail("workers", "summary.json", message, field="makers")
        record = self.folder.read_run()
        if summary is not None and not problem and record is not None and record.stop is not None:
            said = [test for part in summary.series if part.stop for test in part.stop.tests]
            if sorted(map(str, said)) != sorted(map(str, record.stop.tests)):
                message = "are not those of .factory/run.json"
                self.report.fail("stops", "summary.json", message, field="series: stop.tests")

    def check_selection(
        self,
        recipe: Recipe,
        decide: Decide,
        summary: Summary | None,
        ids: DiskMap[str],
    ) -> None:
        """Selects again from the stored scores and compares with the accepted rows.

        Args:
            recipe: recipe.json.
            decide: what decides from scores.
            summary: summary.json.
            ids: sample ids of the rows in `data`.
        """
        record = self.folder.read_run()
        if record is None or not self.markers:
            return
        plan = read_outline(record)
        try:
            policy = build_policy(self.folder, recipe, decide)
            survey = survey_run(self.folder, plan, policy)
            read = self.folder, plan, policy.later
            decisions = iterate_decisions(*read, survey.decided, ("sample_id",))
            kept: DiskMap[bool] = DiskMap()
            tested = self._open_tested(record, recipe)
            for shard, decided in decisions:
                for row, decision in decided:
                    if decision.status == "accepted":
                        kept[row["sample_id"]] = True
                        tested.add(shard.series, row["index"], row["sample_id"])
        except FactoryError as error:
            self.report.fail("selection", ".factory/", str(error))
            return
        tested.check(self.report)
        self.report.checked["selection"] += len(kept)
        for name in kept.list_lacking(ids):
            self.report.fail("selection", f"{DATA}/", "was accepted, but is not there", name)
        for name in ids.list_lacking(kept):
            self.report.fail("selection", f"{DATA}/", "is there, but was not accepted", name)
        if summary is not None:
            parts = {part.key: part for part in summary.series}
            for key, funnel in survey.funnel.items():
                said = parts[key].model_dump(mode="json") if key in parts else {}
                found = funnel.to_json()
                for field in ("asked", "accepted", "generated", "spare", "rejected"):
                    self.report.expect(
                        "counts",
                        "summary.json",
                        said.get(field),
                        found[field],
                        field=f"series {said.get('label', key)}: {field}",
                    )

    def _open_tested(self, record: RunRecord, recipe: Recipe) -> TestedImages:
        """Returns the tests of `budget.stop`; of a run that was refiltered they saw others."""
        made, nothing = restore_recipe(record.recipe), TestedImages((), None)
        first, now = (select_deciding(each.model_dump(mode="json")) for each in (made, recipe))
        if record.stop is None or made.budget.stop is None or first != now:
            return nothing
        counts = [(part.key, part.count) for part in record.series]
        if problem := record.stop.find_problem(counts, made.budget.stop):
            self.report.fail("stops", ".factory/run.json", f"holds {problem}", field="stop")
            return nothing
        if read_forgotten(self.folder).record is not None:
            self.report.note("what tests of budget.stop saw: somebody was forgotten since")
            return nothing
        return TestedImages(record.stop.tests, SeenImages(made.budget.stop, record.series))

    def _read(self) -> None:
        record = self.folder.read_run()
        if record is None:
            return
        for marker in self._iterate_markers(read_outline(record)):
            name = f".factory/{marker.data}"
            self.report.checked["shards"] += 1
            try:
                table = self.folder.read_table(marker, verify=True)
            except StoreError as error:
                self.report.fail("shards", name, str(error))
                continue
            self.report.expect("shards", name, len(table), marker.rows, field="rows")
            number = len(self.markers)
            self.markers.append(marker)
            self._read_maker(marker.worker)
            for batch in table.select(["sample_id", *COMPARED]).to_batches(256):
                rows = batch.to_pylist()
                self.later.lay_over(rows)
                for row in rows:
                    self.digests.setdefault(row["sample_id"], (number, _digest(row)))

    def _read_maker(self, digest: str) -> None:
        if digest in self.makers:
            return
        self.report.checked["workers"] += 1
        try:
            self.makers[digest] = self.folder.read_worker(digest)
        except StoreError as error:
            self.makers[digest] = None
            self.report.fail("workers", name_worker(digest), str(error))

    def _iterate_markers(self, plan: Any) -> Iterator[Marker]:
        for shard in plan.iterate_shards():
            number = 0
            while (marker := self.folder.read_marker(shard, number)) is not None:
                yield marker
                number += 1
            if not number:
                self.missing += 1
                self.report.note(f"shard {shard.id}: was never committed (quarantined or stopped)")


def _digest(values: Mapping[str, Any]) -> str:
    return compute_digest("row", [_plain(values.get(name)) for name in COMPARED])


def _plain(value: Any) -> Any:
    """Returns a value as JSON can hold it; NaN becomes text."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _shorten(found: Any, recorded: Any) -> str:
    """Names only what differs of two values or structs."""
    if isinstance(found, Mapping) and isinstance(recorded, Mapping):
        names = sorted({*found, *recorded})
        changed = [n for n in names if _plain(found.get(n)) != _plain(recorded.get(n))]
        return ", ".join(f"{n} {found.get(n)!r} instead of {recorded.get(n)!r}" for n in changed)
    return f"{str(found)[:80]!r} instead of {str(recorded)[:80]!r}"
