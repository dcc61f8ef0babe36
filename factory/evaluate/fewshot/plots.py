"""Plots of a study as SVG: arms with their intervals, and the curve over synthetic images."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from factory.core.plots import choose_ticks
from factory.evaluate.fewshot.settings import PRIMARY

WIDTH = 880
LEFT, RIGHT, TOP, ROW = 350, 90, 64, 34
COLOURS = ("#2166ac", "#e08214", "#148c3c", "#96469b", "#c81e3c", "#6e6e6e")
_FONT = "font-family='sans-serif'"


def draw_arms(results: Mapping[str, Any]) -> bytes:
    """Returns an SVG: each arm's balanced accuracy with its interval, for every count of shots.

    Args:
        results: what `build_results` returns.
    """
    studies = _list_studies(results)
    arms = list(dict.fromkeys(arm for study in studies.values() for arm in study["arms"]))
    found = [study["arms"][arm][PRIMARY] for study in studies.values() for arm in study["arms"]]
    low, high = _span(found)
    bottom = TOP + ROW * len(arms)
    parts = [_text(LEFT, 24, "balanced accuracy, mean of draws and 95 % interval", 14)]
    parts += _draw_axis(low, high, TOP - 6, bottom)
    for row, arm in enumerate(arms):
        middle = TOP + ROW * (row + 0.5)
        parts.append(_text(LEFT - 12, middle + 4, _name(arm, studies), 13, "end"))
        for number, study in enumerate(studies.values()):
            if arm in study["arms"]:
                y = middle + 9 * (number - (len(studies) - 1) / 2)
                interval = study["arms"][arm][PRIMARY]
                parts += _draw_interval(interval, low, high, y, _colour(number))
    parts += _draw_legend([f"{name} shots" for name in studies], bottom + 44)
    return _wrap(parts, bottom + 64)


def draw_curve(results: Mapping[str, Any]) -> bytes | None:
    """Returns an SVG: balanced accuracy over synthetic images of each class; None without any."""
    studies = {name: each for name, each in _list_studies(results).items() if each["curve"]}
    if not studies:
        return None
    points = [point for study in studies.values() for point in study["curve"]]
    low, high = _span([point[PRIMARY] for point in points])
    most = max(1, *(point["per_class"] for point in points))
    top, bottom = 50.0, 330.0

    def place(count: float, value: float) -> tuple[float, float]:
        x = 70 + (WIDTH - 160) * count / most
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    parts = [_text(70, 24, "real + synthetic: balanced accuracy, 95 % interval", 14)]
    for tick in choose_ticks(low, high, 8):
        _, y = place(0, tick)
        parts.append(_line(70, y, WIDTH - 90, y, "#dddddd"))
        parts.append(_text(62, y + 4, f"{tick:g}", 11, "end"))
    for count in sorted({point["per_class"] for point in points}):
        parts.append(_text(place(count, low)[0], bottom + 18, str(count), 11, "middle"))
    parts.append(
        _text((WIDTH - 20) / 2, bottom + 38, "synthetic images of each class", 12, "middle")
    )
    for number, study in enumerate(studies.values()):
        colour = _colour(number)
        line = [place(p["per_class"], p[PRIMARY]["mean"]) for p in study["curve"]]
        for point in study["curve"]:
            x, y0 = place(point["per_class"], point[PRIMARY]["low"])
            _, y1 = place(point["per_class"], point[PRIMARY]["high"])
            parts.append(_line(x, y0, x, y1, colour, 2, 0.45))
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(
            f"<polyline points='{joined}' fill='none' stroke='{colour}' stroke-width='2'/>"
        )
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>" for x, y in line]
    parts += _draw_legend([f"{name} shots" for name in studies], bottom + 62)
    return _wrap(parts, bottom + 80)


def _list_studies(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns shots -> results."""
    if "shots" in results:
        return dict(results["shots"])
    return {str(results["settings"]["shots"]): results}


def _name(arm: str, studies: Mapping[str, Mapping[str, Any]]) -> str:
    marks = [mark for each in studies.values() for mark in each["marks"].get(arm, ())]
    return arm + "".join(f" [{mark}]" for mark in dict.fromkeys(marks))


def _span(intervals: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    low = min(each["low"] for each in intervals)
    high = max(each["high"] for each in intervals)
    margin = max(0.02, 0.06 * (high - low))
    return max(0.0, low - margin), min(1.0, high + margin)


def _draw_axis(low: float, high: float, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in choose_ticks(low, high, 8):
        x = _place(tick, low, high)
        parts.append(_line(x, top, x, bottom, "#dddddd"))
        parts.append(_text(x, bottom + 16, f"{tick:g}", 11, "middle"))
    return parts


def _draw_interval(
    interval: Mapping[str, float], low: float, high: float, y: float, colour: str
) -> list[str]:
    x0, x, x1 = (_place(interval[name], low, high) for name in ("low", "mean", "high"))
    return [
        _line(x0, y, x1, y, colour, 3, 0.5),
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>",
        _text(x1 + 6, y + 4, f"{interval['mean']:.3f}", 11),
    ]


def _draw_legend(names: Sequence[str], y: float) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        x = LEFT + 110 * number
        parts.append(f"<circle cx='{x}' cy='{y - 4:.1f}' r='4' fill='{_colour(number)}'/>")
        parts.append(_text(x + 10, y, name, 12))
    return parts


def _place(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, text: str, size: int, anchor: str = "start") -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}'"
    return f"<text {place} {_FONT} fill='#282828'>{escape(text)}</text>"


def _line(
    x0: float, y0: float, x1: float, y1: float, colour: str, width: float = 1, opacity: float = 1
) -> str:
    ends = f"x1='{x0:.1f}' y1='{y0:.1f}' x2='{x1:.1f}' y2='{y1:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width}' stroke-opacity='{opacity}'/>"


def _wrap(parts: Sequence[str], height: float) -> bytes:
    size = f"width='{WIDTH}' height='{height:.0f}' viewBox='0 0 {WIDTH} {height:.0f}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size}>"
    ground = f"<rect width='{WIDTH}' height='{height:.0f}' fill='white'/>"
    return "\n".join([head, ground, *parts, "</svg>\n"]).encode()
