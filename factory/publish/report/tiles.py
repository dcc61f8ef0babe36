"""Tiles of a report: one candidate each, with what was asked, the verdict and its scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from factory.core.images import decode_image
from factory.core.sheets import set_beside
from factory.publish.report.collect import Shown
from factory.publish.report.margins import Limit
from factory.publish.report.pictures import Picture, Stored, draw_picture, make_picture
from factory.publish.report.real_images import RealMatch

SHORT = 12
"""Hex digits of an id that are shown."""


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """A score, and the threshold of the candidate's class where there is one."""

    name: str
    value: str
    limit: str = ""
    is_missed: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """What is shown of one image.

    Attributes:
        picture: None where it was not kept.
        alt: says what the picture is.
        title: class, or series.
        text: caption, or name.
        status: accepted, rejected or real.
        verdict: why.
        facts: name -> text, e.g. ids.
        scores: all of them.
    """

    picture: Picture | None
    alt: str
    title: str
    status: str
    verdict: str = ""
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: tuple[ScoreLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images side by side, and how alike they are."""

    first: Tile
    second: Tile
    text: str


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes tiles of candidates.

    Attributes:
        labels: series key -> label.
        limits: thresholds in force.
        stored: sample id -> what is stored.
        is_synthetic: whether factory made the images.
    """

    labels: Mapping[str, str]
    limits: Sequence[Limit]
    stored: Mapping[str, Stored]
    is_synthetic: bool

    def make(self, shown: Shown) -> Tile:
        """Makes the tile of a candidate.

        Raises:
            SourceError: its stored image cannot be read.
        """
        row, decision = shown.row, shown.decision
        title = row["class_name"] or self.labels.get(row["series"], row["series"])
        verdict = ""
        if decision.status != "accepted":
            reason = str(decision.reason)
            if decision.match is not None:
                reason = reason.replace(decision.match, decision.match[:SHORT])
            verdict = f"{decision.rejected_by}: {reason}"
        elif shown.margin is not None:
            verdict = str(shown.margin)
        facts = {
            "sample": shown.sample_id,
            "request": f"{row['index']}, attempt {row['attempt']}",
            "seed": str(row["seed"]),
        }
        if row["prompt"]:
            facts["prompt"] = row["prompt"]
        if row["reference_sha256"] is not None:
            facts["varies"] = row["reference_sha256"][:SHORT]
        return Tile(
            picture=self.draw(shown.sample_id),
            alt=f"{decision.status} {title}, sample {shown.sample_id[:SHORT]}",
            title=title,
            status=decision.status,
            verdict=verdict,
            text=row["caption"] or "",
            facts=facts,
            scores=tuple(self._list_scores(shown)),
        )

    def draw(self, sample_id: str) -> Picture | None:
        """Returns the thumbnail of a candidate; None where its image was not kept.

        Raises:
            SourceError: its stored image cannot be read.
        """
        stored = self.stored.get(sample_id)
        if stored is None or stored.data is None:
            return None
        if stored.asked:
            pixels = decode_image(stored.data, sample_id)
            is_synthetic = self.is_synthetic and not stored.has_real
            return draw_picture(set_beside(pixels, stored.asked), is_synthetic)
        return make_picture(stored.data, sample_id, self.is_synthetic)

    def _list_scores(self, shown: Shown) -> list[ScoreLine]:
        lines = []
        class_name = shown.row["class_name"]
        for name, value in (shown.row["scores"] or {}).items():
            if value is None or math.isnan(value):
                lines.append(ScoreLine(name, "does not apply"))
                continue
            limits = [(limit, limit.find_value(class_name)) for limit in self.limits]
            mine = [(each, bound) for each, bound in limits if each.score == name]
            texts, is_missed = [], False
            for each, bound in mine:
                if bound is not None:
                    texts.append(f"{'≥' if each.is_lower else '≤'} {bound:g}")
                    is_missed |= value < bound if each.is_lower else value > bound
            lines.append(ScoreLine(name, f"{value:g}", ", ".join(texts), is_missed))
        return lines


def make_real_tile(match: RealMatch) -> Tile:
    """Makes the tile of a real image."""
    return Tile(
        picture=match.picture,
        alt=f"real {match.class_name or 'image'}, {match.name}",
        title=match.class_name or "real",
        status="real",
        text=match.name,
    )
