"""Checks of `budget.stop`: that the ends of series follow from the figures of their tests."""

from collections.abc import Mapping
from typing import Any

from factory.data.summary import StopPart, StopTest, Summary
from factory.engine.stop_figures import SeenImages
from factory.publish.verify.findings import Report
from factory.recipe.stop import FIGURES


def check_stops(summary: Summary | None, report: Report) -> None:
    """Decides again from the figures of the summary where each series ended."""
    rule = None if summary is None else summary.stop
    if summary is None or rule is None:
        return
    for part in (each for each in summary.series if each.stop is not None):
        assert part.stop is not None
        report.checked["stops"] += 1
        for problem in _find_problems(part.stop, rule):
            report.fail("stops", "summary.json", problem, field=f"series {part.label}: stop")
    if FIGURES[rule["when"]].is_joint:
        for at in _list_apart(summary):
            message = f"the tests at {at:,} say different things of series that end at once"
            report.fail("stops", "summary.json", message)


def _list_apart(summary: Summary) -> list[int]:
    """Returns where series have different figures although one decides for all of them."""
    found: dict[int, set[tuple[float | str | None, ...]]] = {}
    for test in (each for part in summary.series if part.stop for each in part.stop.tests):
        figures = test.before, test.after, test.change, test.low, test.high, test.sample
        found.setdefault(test.at, set()).add(figures)
    return sorted(at for at, each in found.items() if len(each) > 1)


def _find_problems(stop: StopPart, rule: Mapping[str, Any]) -> list[str]:
    """Says what does not follow."""
    problems = []
    for test in stop.tests:
        ends = test.is_within(float(rule["tolerance"]))
        if test.stops != ends:
            said = "ends" if test.stops else "does not end"
            problems.append(f"the test at {test.at:,} {said} it, which its figures do not say")
    first = next((test.at for test in stop.tests if test.stops), None)
    if stop.at != first:
        problems.append(f"ended at {stop.at}, where the tests say {first}")
    return problems


class TestedImages:
    """The accepted images of series, as their tests saw them; none is kept.

    Args:
        tests: of the run record.
        samples: what they see; None: nothing is compared.
    """

    def __init__(self, tests: tuple[StopTest, ...], samples: SeenImages | None) -> None:
        self.tests, self._samples = tests, samples

    def add(self, series: str, index: int, name: str) -> None:
        """Takes the next accepted image of a series."""
        if self._samples is not None:
            self._samples.add(series, index, name)

    def check(self, report: Report) -> None:
        """Compares with what the tests recorded."""
        if self._samples is None:
            return
        for test in self.tests:
            report.checked["stops"] += 1
            if self._samples.find(test.series, test.at) != test.sample:
                message = f"the test at {test.at:,} saw other images than those that are accepted"
                report.fail("stops", ".factory/run.json", message, field=f"stop: {test.series}")
