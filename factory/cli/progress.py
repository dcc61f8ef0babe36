"""Progress of a run: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from factory.cli.tally import Counts, Tally
from factory.data.records import Progress
from factory.engine.drain import Drained
from factory.engine.executors import Outcome
from factory.engine.plan import Outline

LINE_EVERY = (1.0, 30.0)
"""Seconds between plain log lines, at first and at most: a twentieth of the time so far."""

BARS_EVERY = 0.1
"""Seconds between updates of the bars."""

MAX_SERIES = 8
"""Series that a plain line lists; of more it names the number."""


class RunProgress:
    """Shows accepted of asked per series, acceptance rate and time left, on stderr."""

    def __init__(
        self, outline: Outline, attempts: int, quiet: bool = False, foretells: bool = True
    ) -> None:
        self.quiet, self.foretells = quiet, foretells
        self.labels = {part.key: part.label for part in outline.series}
        self.tally = Tally({part.key: part.count for part in outline.series}, attempts)
        self.began, self.last_line, self.last_text = time.monotonic(), float("-inf"), ""
        self.noted: set[str] = set()
        self.foretold: set[str] = set()
        self.bars: Bars | None = None
        self.rows: dict[str, Any] = {}
        if sys.stderr.isatty() and not quiet:
            self.bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            rows = {**self.labels, "": "all"}
            asked = {**self.tally.asked, "": sum(self.tally.asked.values())}
            self.rows = {
                key: self.bars.add_task(label, total=asked[key], note="")
                for key, label in rows.items()
            }

    def __enter__(self) -> "RunProgress":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._show(is_due=True)
        if self.bars is not None:
            self.bars.stop()
        if isinstance(error, KeyboardInterrupt):
            self._say_kept(isinstance(error, Drained))

    def say(self, line: str) -> None:
        """Prints one line above the bars, below how far the run was."""
        self._show(is_due=True)
        self._print(line)

    def notify(self, outcome: Outcome) -> None:
        """Books a shard that ended."""
        self.tally.notify(outcome)
        if outcome.marker is None:
            self.say(f"quarantined {outcome.task.shard.id}: {outcome.error}")
        self._show()

    def report(self, progress: Progress) -> None:
        """Books a batch that was judged."""
        if progress.note and progress.note not in self.noted:
            self.noted.add(progress.note)
            self._print(progress.note)
        self.tally.report(progress)
        self._foretell(progress.shard.series)
        self._show()

    def recount(self, filled: Mapping[str, int], goes_on: Mapping[str, int]) -> None:
        """Books which requests have their image after a look over the whole set."""
        self.tally.recount(filled, goes_on)
        self._show()

    def _foretell(self, key: str) -> None:
        """Says once of a series that it will not be filled, as soon as that is clear."""
        counts = self.tally.count(key)
        is_done = key in self.foretold or not self.foretells
        expected = None if is_done else self.tally.foretell(key)
        if expected is not None:
            self.foretold.add(key)
            self._print(
                f"{self.labels[key]}: {counts.filled:,} of {counts.tried:,} tries accepted; at "
                f"this rate {expected:,} of {self.tally.asked[key]:,}: raise budget.attempts (with "
                "--extend), lower a threshold (factory refilter), or ask for less"
            )

    def _show(self, is_due: bool = False) -> None:
        now = time.monotonic()
        if self.bars is not None:
            if not is_due and now - self.last_line < BARS_EVERY:
                return
            self.last_line = now
            for key, row in self.rows.items():
                counts = self.tally.count(key) if key else self.tally.count_all()
                note = describe_rate(counts) + ("" if key else f" {self._describe_left()}")
                self.bars.update(row, completed=counts.filled, note=note)
            return
        wait = min(max((now - self.began) / 20, LINE_EVERY[0]), LINE_EVERY[1])
        if self.quiet or not (is_due or now - self.last_line > wait):
            return
        counts = self.tally.count_all()
        text = self._write_line(counts)
        if counts.tried and text != self.last_text:
            self.last_line, self.last_text = now, text
            left = self._describe_left()
            self._print(f"{text}, {left}" if left else text)

    def _print(self, line: str) -> None:
        if self.quiet:
            return
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)

    def _write_line(self, counts: Counts) -> str:
        asked = self.tally.asked
        parts = ", ".join(
            f"{self.labels[key]} {each.filled:,}/{count:,} {describe_rate(each)}".rstrip()
            for key, count in asked.items()
            for each in [self.tally.count(key)]
        )
        if len(asked) > MAX_SERIES:
            parts = f"{len(asked)} series"
        return f"{counts.filled:,}/{sum(asked.values()):,} ({parts}), {describe_rate(counts)}"

    def _describe_left(self) -> str:
        left = self.tally.estimate_left()
        return "" if left is None else f"{describe_seconds(left)} left"

    def _say_kept(self, is_drained: bool) -> None:
        kept = sum(counts.filled for counts in self.tally.committed.values())
        asked = sum(self.tally.asked.values())
        lost = sum(each.tried for each in self.tally.at_work.values())
        what = "all are kept" if is_drained else "the last minute's are made again"
        more = f"; of {lost:,} candidates at work {what}" if lost else ""
        if not self.quiet:
            click.echo(f"stopped: {kept:,} of {asked:,} images are kept{more}", err=True)


def describe_rate(counts: Counts) -> str:
    """Returns the share of candidates that filled a request, spare ones counted as not."""
    return f"{counts.filled / counts.tried:.0%} accepted" if counts.tried else ""


def describe_seconds(seconds: float) -> str:
    """Returns a duration in its two largest units."""
    whole = round(seconds)
    for size, name, part_size, part in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part_size} {part}"
    return f"{whole} s"
