"""Progress of a run: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from factory.executors import Outcome
from factory.plan import Outline

LINE_EVERY = 5.0
"""Seconds between plain log lines."""


class RunProgress:
    """Shows accepted of asked per series, acceptance rate and time left, on stderr."""

    def __init__(self, outline: Outline, quiet: bool = False) -> None:
        self.outline, self.quiet = outline, quiet
        self.labels = {part.key: part.label for part in outline.series}
        self.counts = {part.key: part.count for part in outline.series}
        self.filled: Counter[str] = Counter()
        self.generated = self.rejected = 0
        self.began = time.monotonic()
        self.last_line = 0.0
        self.bars: Progress | None = None
        self.tasks: dict[str, Any] = {}
        if sys.stderr.isatty() and not quiet:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.tasks = {
                key: self.bars.add_task(label, total=self.counts[key], rate="")
                for key, label in self.labels.items()
            }

    def __enter__(self) -> "RunProgress":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def say(self, line: str) -> None:
        """Prints one line above the bars."""
        if self.quiet:
            return
        if self.bars is not None:
            self.bars.console.print(line)
        else:
            click.echo(line, err=True)

    def notify(self, outcome: Outcome) -> None:
        """Books a shard that ended."""
        marker = outcome.marker
        if marker is None:
            self.say(f"quarantined {outcome.task.shard.id}: {outcome.error}")
            return
        self.filled[marker.series] += marker.filled
        self.generated += marker.generated
        self.rejected += sum(marker.rejected.values())
        total = sum(self.filled.values())
        kept = self.generated - self.rejected
        rate = f"{kept / self.generated:.0%} accepted" if self.generated else ""
        if self.bars is not None:
            done = min(self.filled[marker.series], self.counts[marker.series])
            self.bars.update(self.tasks[marker.series], completed=done, rate=rate)
        elif time.monotonic() - self.last_line > LINE_EVERY:
            self.last_line = time.monotonic()
            self.say(self._write_line(total, rate))

    def _write_line(self, total: int, rate: str) -> str:
        asked = sum(self.counts.values())
        elapsed = time.monotonic() - self.began
        left = elapsed * (asked - total) / total if total else 0.0
        parts = ", ".join(
            f"{self.labels[key]} {self.filled[key]:,}/{count:,}"
            for key, count in self.counts.items()
        )
        if len(self.counts) > 8:
            parts = f"{len(self.counts)} series"
        return f"{total:,}/{asked:,} ({parts}), {rate}, {left:.0f} s left"
