"""Slides of cohorts: how many of their patches were accepted, and which stay short."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.data.streams.bag import BACKGROUND
from factory.engine.selection import Decision, SeriesFunnel
from factory.engine.tally import Tally

LISTED = 20
"""Slides of a series that are told by name; of others, how many there are."""


@dataclass(slots=True)
class Bags(Tally):
    """Counts the accepted patches of each slide; `sizes`: of each series, the patches of one."""

    reads = ("slide", "patch_label")
    lacking: dict[str, Counter[str]] = field(default_factory=dict)
    slides: dict[str, set[str]] = field(default_factory=dict)
    asked: dict[str, set[str]] = field(default_factory=dict)
    """Slides of which some patch was to show the label; of `shown` some accepted one does."""
    shown: dict[str, set[str]] = field(default_factory=dict)

    def _note(
        self, series: str, candidates: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
    ) -> None:
        """Notes one request of a slide, and whether it has its patch."""
        slide = str(candidates[0]["slide"])
        self.slides.setdefault(series, set()).add(slide)
        is_filled = any(decision.status == "accepted" for decision in decisions)
        if not is_filled:
            self.lacking.setdefault(series, Counter())[slide] += 1
        if candidates[0]["patch_label"] != BACKGROUND:
            self.asked.setdefault(series, set()).add(slide)
            self.shown.setdefault(series, set()).update([slide] if is_filled else [])

    def tell(self, funnels: Mapping[str, SeriesFunnel]) -> None:
        """Notes in the funnels how many slides are whole, and which are short by how much."""
        for series, size in self.sizes.items():
            lacking = self.lacking.get(series, Counter())
            worst = sorted(lacking.items(), key=lambda each: (-each[1], each[0]))[:LISTED]
            funnels[series].bags = {
                "size": size,
                "slides": len(self.slides.get(series, ())),
                "short": len(lacking),
                "lacking": dict(worst),
                "unshown": len(self.asked.get(series, set()) - self.shown.get(series, set())),
            }
