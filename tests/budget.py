"""Keeps the daily tests cheap: the CPU seconds of each are metered, many are told, too many fail.

A test's seconds are those of its process and of the processes that this has started, while the
test runs, without the setting up of fixtures that several tests share, and without the libraries
that most of them need.

Usage: python -m tests.budget    (imports those libraries and all tests, so that they are compiled
once; lists the tests)
"""

import importlib
import resource
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import forked

TOLD = 3.0
"""Daily tests above it are listed when all have ended."""
BOUND = 30.0
"""A daily test above it fails where all are run: far above what is told, as machines differ."""
SPINE_BOUND = 120.0
"""The same for the few whole ways that are marked `spine`."""

LIBRARIES = (
    "datasets",
    "diffusers.models.unets.unet_2d",
    "mlcroissant",
    "open_clip",
    "ray",
    "sklearn.linear_model",
    "torch._dynamo",
)
"""Seconds to import; no single test is charged with them where all are run."""


def import_libraries() -> None:
    """Imports what most tests need, and what processes to kill are forked with."""
    for name in (*LIBRARIES, *forked.LIBRARIES):
        importlib.import_module(name)


def read_cpu() -> float:
    """Returns the CPU seconds of this process and of its children, those that still run too.

    So one that many tests share is no burden of the last of them, which ends it.
    """
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    seconds = sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, kinds))
    for child in list_children():
        with suppress(psutil.Error):
            seconds += sum(child.cpu_times()[:4])
    return seconds


def list_children() -> list[psutil.Process]:
    """Returns the processes that this one has started, as the kernel lists them if it does.

    psutil looks at every process of the machine: 2.3 ms instead of 0.02.
    """
    try:
        texts = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:  # a thread has ended
        texts = []
    if not texts:
        return psutil.Process().children()
    found = []
    for number in " ".join(texts).split():
        with suppress(psutil.Error):
            found.append(psutil.Process(int(number)))
    return found


def find_fault(seconds: float, marks: set[str]) -> str | None:
    """Says that a test with these marks takes too long; None where it does not."""
    bound = SPINE_BOUND if "spine" in marks else BOUND
    if "slow" in marks or seconds <= bound:
        return None
    return (
        f"took {seconds:.1f} s of CPU, and a test of every day may take {bound:g}: make it "
        "cheaper, or mark it slow and keep a cheap case of it (tests/README.md)"
    )


class Budget:
    """Meters every test of a process; `strict` makes those fail that are above their bound."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.told: dict[str, float] = {}
        self._began: float | None = None
        self._shared = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Begins to count, where the test before ended: to read takes milliseconds."""
        self._began = read_cpu() if self._began is None else self._began
        self._shared = 0.0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Counts apart what is set up for several tests."""
        if fixturedef.scope == "function":
            return (yield)
        began, before = read_cpu(), self._shared
        try:
            return (yield)
        finally:
            self._shared = before + read_cpu() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Adds the seconds to the last report of a test."""
        report = yield
        if call.when == "teardown":
            marks = {mark.name for mark in item.iter_markers()}
            began, self._began = self._began or 0.0, read_cpu()
            seconds = self._began - began - self._shared
            fault = find_fault(seconds, marks)
            if fault is not None and self.strict and report.passed:
                report.outcome, report.longrepr = "failed", f"{report.nodeid} {fault}"
            if not marks & {"slow", "spine"}:
                report.cpu_seconds = seconds
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what is to be told; with many processes, in the one that starts them."""
        seconds = getattr(report, "cpu_seconds", 0.0)
        if seconds > TOLD:
            self.told[report.nodeid] = seconds

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Lists the tests of every day that take long."""
        if self.told:
            terminalreporter.section(f"daily tests above {TOLD:g} s of CPU")
        for name, seconds in sorted(self.told.items(), key=lambda each: -each[1]):
            terminalreporter.line(f"{seconds:6.1f} s  {name}")


if __name__ == "__main__":
    import_libraries()
    sys.exit(pytest.main(["-n", "0", "--collect-only", "-qq"]))
