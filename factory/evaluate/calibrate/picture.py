"""The picture of a calibration: a panel for each threshold and class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.core.places import name_place
from factory.core.plots import BLACK, Box, Canvas, Colour, choose_ticks, measure_text

PANEL_WIDTH, PANEL_HEIGHT = 500, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 56, 30, 50
"""Margins inside a panel, px."""
HEADER = 74
BINS = 30
MAX_CLASSES = 12
"""Columns of the picture; further classes stand in the numbers."""

REAL: Colour = (33, 102, 172)
SYNTHETIC: Colour = (224, 130, 20)
MISLABELLED: Colour = (200, 30, 60)
RUN: Colour = (150, 70, 0)
NOW: Colour = (110, 110, 110)
PROPOSED: Colour = (20, 140, 60)
GRID: Colour = (225, 225, 225)


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where a panel's plot lies, and the scores that its width spans."""

    box: Box
    low: float
    high: float
    most: float
    """Share of images at the top of the left axis."""

    def place(self, score: float) -> float:
        left, _, right, _ = self.box
        share = (score - self.low) / (self.high - self.low)
        return left + (right - left) * min(1.0, max(0.0, share))

    def raise_by(self, share: float) -> float:
        _, top, _, bottom = self.box
        return bottom - (bottom - top) * share


def draw_calibration(report: Mapping[str, Any]) -> bytes:
    """Returns a PNG: histograms of both sets, acceptance curves, the threshold now and proposed.

    Args:
        report: what `calibrate_recipe` returns.
    """
    fields = [part for part in report["fields"] if part["shown"] and part["curve"]["thresholds"]]
    classes = report["classes"][:MAX_CLASSES]
    width = max(len(classes) * PANEL_WIDTH, 2 * PANEL_WIDTH)
    canvas = Canvas(width, HEADER + max(1, len(fields)) * PANEL_HEIGHT)
    _draw_header(canvas, report, width)
    for row, part in enumerate(fields):
        for column, group in enumerate(classes):
            _draw_panel(canvas, part, group, column * PANEL_WIDTH, HEADER + row * PANEL_HEIGHT)
    return canvas.encode()


def _draw_header(canvas: Canvas, report: Mapping[str, Any], width: int) -> None:
    real, keep = report["real"], f"{100 * report['keep']:g} %"
    tries = f"{report['synthetic']['images']} synthetic first tries"
    if real is None:
        title = f"{report['recipe']}: {tries}, NO real images; keeping {keep} of the synthetic"
    else:
        place = name_place(real["path"])
        title = (
            f"{report['recipe']}: {real['images']} real images ({place}) and {tries}; "
            f"keeping {keep} of the real images of every class"
        )
    hidden = len(report["classes"]) - MAX_CLASSES
    title += f"; {hidden} more classes in calibration.json" if hidden > 0 else ""
    canvas.add_text((LEFT / 2, 12), title, 14)
    x = LEFT / 2
    for name, colour, style in _LEGEND:
        if style == "box":
            canvas.add_box((x, 44, x + 22, 56), colour, 0.45)
        else:
            dash = {"line": 0.0, "dash": 5.0, "dots": 2.0}[style]
            canvas.add_line([(x, 50), (x + 22, 50)], colour, 2, dash)
        canvas.add_text((x + 28, 50), name, 11, anchor="lm")
        x += 28 + measure_text(name, 11) + 18
        if x > width - 160:
            break


_LEGEND: tuple[tuple[str, Colour, str], ...] = (
    ("real", REAL, "box"),
    ("synthetic", SYNTHETIC, "box"),
    ("accepted: real", REAL, "line"),
    ("synthetic", SYNTHETIC, "line"),
    ("synthetic, by all filters", RUN, "dots"),
    ("real of another class", MISLABELLED, "dots"),
    ("threshold now", NOW, "dash"),
    ("proposed", PROPOSED, "line"),
)


def _draw_panel(
    canvas: Canvas, part: Mapping[str, Any], group: str, left: float, top: float
) -> None:
    thresholds = part["curve"]["thresholds"]
    box = (left + LEFT, top + TOP, left + PANEL_WIDTH - RIGHT, top + PANEL_HEIGHT - BOTTOM)
    bars = {name: _count_bins(part, name, group) for name in ("real", "synthetic")}
    most = max([float(each.max()) for each in bars.values() if each is not None] or [1.0])
    axes = _Axes(box, thresholds[0], thresholds[-1], min(1.0, most * 1.15))
    _draw_frame(canvas, axes, part["score"])
    title = f"{part['filter']}.{part['field']}"
    canvas.add_text((box[0], top + 18), title, 12, anchor="ls")
    after = box[0] + measure_text(title, 12) + 10
    before = _write_values(canvas, part, group, (box[2], top + 18))
    name = _shorten(group, before - after - 10)
    canvas.add_text((after, top + 18), name, 12, NOW, anchor="ls")
    if all(each is None for each in bars.values()):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        canvas.add_text(middle, "does not apply", 12, NOW, "mm")
        return
    for colour, heights in ((REAL, bars["real"]), (SYNTHETIC, bars["synthetic"])):
        if heights is not None:
            _draw_bars(canvas, axes, heights, colour)
    curves = (
        ("mislabelled", MISLABELLED, 2.0),
        ("synthetic", SYNTHETIC, 0.0),
        ("run", RUN, 2.0),
        ("real", REAL, 0.0),
    )
    for name, colour, dash in curves:
        shares = part["curve"].get(name, {}).get(group)
        if shares is not None:
            points = [
                (axes.place(x), axes.raise_by(y)) for x, y in zip(thresholds, shares, strict=True)
            ]
            canvas.add_line(points, colour, 1.6, dash)
    for value, colour, dash in (
        (_pick(part["now"], group), NOW, 5.0),
        (_pick(part["proposed"], group), PROPOSED, 0.0),
    ):
        if value is not None:
            x = axes.place(value)
            canvas.add_line([(x, box[1]), (x, box[3])], colour, 2, dash)


def _draw_frame(canvas: Canvas, axes: _Axes, score: str) -> None:
    left, top, right, bottom = axes.box
    for share in (0.25, 0.5, 0.75, 1.0):
        y = axes.raise_by(share)
        canvas.add_line([(left, y), (right, y)], GRID)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = axes.raise_by(share)
        canvas.add_text((right + 5, y), f"{share:.0%}", 10, anchor="lm")
    for tick in choose_ticks(0.0, axes.most, 4):
        y = axes.raise_by(tick / axes.most)
        canvas.add_line([(left - 4, y), (left, y)], BLACK)
        canvas.add_text((left - 6, y), f"{100 * tick:g}%", 10, anchor="rm")
    for tick in choose_ticks(axes.low, axes.high):
        x = axes.place(tick)
        canvas.add_line([(x, bottom), (x, bottom + 4)], BLACK)
        canvas.add_text((x, bottom + 6), f"{tick:g}", 10, anchor="ma")
    canvas.add_line([(left, top), (left, bottom), (right, bottom), (right, top)], BLACK)
    canvas.add_text(((left + right) / 2, bottom + 22), score, 11, anchor="ma")
    canvas.add_upright_text((left - 44, (top + bottom) / 2), "images in a bar")
    canvas.add_upright_text((right + 44, (top + bottom) / 2), "accepted")


def _write_values(
    canvas: Canvas, part: Mapping[str, Any], group: str, place: tuple[float, float]
) -> float:
    """Writes the thresholds, ending at a place; returns where the text begins, px."""
    now, proposed = _pick(part["now"], group), _pick(part["proposed"], group)
    text = "none" if proposed is None else f"proposed {proposed:g}"
    canvas.add_text(place, text, 12, PROPOSED, "rs")
    before = place[0] - measure_text(text, 12) - 10
    text = "off now" if now is None else f"now {now:g}"
    canvas.add_text((before, place[1]), text, 12, NOW, "rs")
    return before - measure_text(text, 12)


def _shorten(text: str, width: float) -> str:
    """Returns a text that is at most so wide, px, cut at the end."""
    if measure_text(text, 12) <= width:
        return text
    while text and measure_text(text + "...", 12) > width:
        text = text[:-1]
    return text + "..." if text else ""


def _draw_bars(canvas: Canvas, axes: _Axes, heights: Sequence[float], colour: Colour) -> None:
    left, _, right, bottom = axes.box
    step = (right - left) / len(heights)
    for number, share in enumerate(heights):
        top = axes.raise_by(min(1.0, share / axes.most))
        x = left + number * step
        canvas.add_box((x + 0.5, top, x + step - 0.5, bottom), colour, 0.45)


def _count_bins(part: Mapping[str, Any], name: str, group: str) -> Any:
    """Returns (BINS,) shares of a set's images by score, or None where it has none."""
    found = part["sets"].get(name, {}).get(group)
    if found is None or not found["scores"]:
        return None
    thresholds = part["curve"]["thresholds"]
    counts, _ = np.histogram(
        np.clip(found["scores"], thresholds[0], thresholds[-1]),
        bins=BINS,
        range=(thresholds[0], thresholds[-1]),
    )
    return counts / len(found["scores"])


def _pick(value: float | Mapping[str, float] | None, group: str) -> float | None:
    if isinstance(value, Mapping):
        return value.get(group)
    return value
