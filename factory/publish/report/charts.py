"""Geometry of a report's charts: histograms and lines as numbers and paths for inline SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.plots import choose_ticks
from factory.publish.report.margins import Limit


@dataclass(frozen=True, slots=True)
class Frame:
    """A plot's size and the box inside it, px; y downwards."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int

    def place_x(self, share: float) -> float:
        """Returns x of a share of the box's width."""
        return round(self.left + (self.right - self.left) * share, 1)

    def place_y(self, share: float) -> float:
        """Returns y of a share of the box's height, from below."""
        return round(self.bottom - (self.bottom - self.top) * share, 1)


HISTOGRAM = Frame(320, 170, 38, 12, 312, 134)
LINES = Frame(760, 240, 48, 12, 748, 196)


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, px, and its text."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Histogram:
    """One panel: candidates by score, those accepted and those rejected, and thresholds."""

    title: str
    alt: str
    accepted: str
    rejected: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limits: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart, with the places of its points."""

    name: str
    path: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over requests."""

    alt: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def draw_histogram(
    title: str,
    edges: NDArray[np.float64],
    accepted: Sequence[int],
    rejected: Sequence[int],
    limits: Iterable[tuple[Limit, float]],
) -> Histogram:
    """Draws one panel.

    Args:
        title: of the panel.
        edges: (B + 1,) of the bins.
        accepted: (B,) accepted candidates by bin.
        rejected: (B,) rejected ones.
        limits: thresholds that hold in this panel, with their values.
    """
    most = max(1, *accepted, *rejected)
    low, high = float(edges[0]), float(edges[-1])

    def place(score: float) -> float:
        return HISTOGRAM.place_x((score - low) / (high - low))

    lines = [(place(value), limit, value) for limit, value in limits]
    return Histogram(
        title=title,
        alt=f"{title}: {sum(accepted)} accepted and {sum(rejected)} rejected candidates by score",
        accepted=_draw_bars(accepted, most),
        rejected=_draw_bars(rejected, most),
        x_ticks=tuple(Tick(place(each), f"{each:g}") for each in choose_ticks(low, high, 4)),
        y_ticks=tuple(
            Tick(HISTOGRAM.place_y(each / most), f"{each:,g}")
            for each in choose_ticks(0.0, float(most), 3)
            if each == int(each)
        ),
        limits=tuple(
            Tick(x, f"{'≥' if limit.is_lower else '≤'} {value:g}", _anchor(x))
            for x, limit, value in lines
        ),
    )


def draw_acceptance(points: Mapping[str, Sequence[Mapping[str, Any]]]) -> LineChart | None:
    """Draws acceptance over requests, one line for each name; None where there is nothing."""
    most = max((each[-1]["requests"] for each in points.values() if each), default=0)
    if not most:
        return None
    lines = []
    for name, found in points.items():
        places = []
        for each in found:
            share = each["accepted"] / each["tried"]
            text = f"{name}, up to number {each['requests']:,}: "
            text += f"{each['accepted']} of {each['tried']} ({share:.0%})"
            x = LINES.place_x(each["requests"] / most)
            places.append((x, LINES.place_y(share), text))
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y, _ in places) if places else ""
        lines.append(Line(name, path, tuple(places)))
    return LineChart(
        alt="Share accepted, one after the other, of " + ", ".join(points),
        lines=tuple(lines),
        x_ticks=tuple(
            Tick(LINES.place_x(each / most), f"{each:,g}") for each in choose_ticks(0.0, most, 6)
        ),
        y_ticks=tuple(Tick(LINES.place_y(each / 4), f"{each / 4:.0%}") for each in range(5)),
    )


def _anchor(x: float) -> str:
    """Returns how a text at x stays inside a panel."""
    if x < HISTOGRAM.left + 20:
        return "start"
    return "end" if x > HISTOGRAM.right - 20 else "middle"


def _draw_bars(counts: Sequence[int], most: int) -> str:
    """Returns the path of all bars of a histogram."""
    parts = []
    for place, count in enumerate(counts):
        if count:
            left = HISTOGRAM.place_x(place / len(counts)) + 0.5
            right = HISTOGRAM.place_x((place + 1) / len(counts)) - 0.5
            top = HISTOGRAM.place_y(count / most)
            parts.append(f"M{left:g} {HISTOGRAM.bottom}V{top:g}H{right:g}V{HISTOGRAM.bottom}Z")
    return "".join(parts)
