"""Families of images are kept whole: one that lacks a member is left out, and counted."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.engine.selection import Decision, Seen, SeriesFunnel, read_seen
from factory.engine.tally import Tally

LEFT_OUT = Decision("rejected", "family", "lacks another member of its family")
"""What becomes of a good image whose family is not whole."""


@dataclass(slots=True)
class Families(Tally):
    """Collects the accepted images of each family.

    Of each series, `sizes` are what is varied -> images of a whole family.
    """

    reads = ("family_id", "varied")
    found: dict[tuple[str, str, str], list[tuple[int, Seen]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def _note(
        self, series: str, candidates: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
    ) -> None:
        """Notes the accepted one of a request's candidates."""
        for row, decision in zip(candidates, decisions, strict=True):
            if decision.status == "accepted":
                seen = int(row["sample_id"], 16), read_seen(row)
                self.found[series, row["varied"], row["family_id"]].append(seen)

    def leave_out(self, funnels: Mapping[str, SeriesFunnel]) -> frozenset[int]:
        """Returns the sample ids of families that are not whole; the funnels count them so."""
        left: set[int] = set()
        for key in self.sizes:
            funnels[key].references, funnels[key].said = Counter(), Counter()
        for (series, varied, _), members in self.found.items():
            funnel = funnels[series]
            if len(members) == self.sizes[series][varied]:
                for _, seen in members:
                    funnel.note(seen)
                continue
            left.update(name for name, _ in members)
            funnel.accepted -= len(members)
            funnel.rejected["family"] += len(members)
            funnel.reasons["family: lacks"] += len(members)
        return frozenset(left)
