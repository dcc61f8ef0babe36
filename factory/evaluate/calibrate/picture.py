"""The picture of a calibration: a panel for each threshold and class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.core.places import name_place
from factory.core.plots import draw_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH, PANEL_HEIGHT, HEADER = 500, 270, 74
"""px."""
BINS = 30
MAX_CLASSES = 12
"""Columns of the picture; further classes stand in the numbers."""

REAL, SYNTHETIC, MISLABELLED = "#2166ac", "#e08214", "#c81e3c"
RUN, NOW, PROPOSED = "#964600", "#6e6e6e", "#148c3c"
_BARS = (("real", REAL, "real"), ("synthetic", SYNTHETIC, "synthetic"))
_CURVES = (
    ("real", REAL, "-", "accepted: real"),
    ("synthetic", SYNTHETIC, "-", "synthetic"),
    ("run", RUN, ":", "synthetic, by all filters"),
    ("mislabelled", MISLABELLED, ":", "real of another class"),
)
_LINES = (("now", NOW, "--", "threshold now"), ("proposed", PROPOSED, "-", "proposed"))


def draw_calibration(report: Mapping[str, Any]) -> bytes:
    """Returns a PNG: histograms of both sets, acceptance curves, the threshold now and proposed.

    Args:
        report: what `calibrate_recipe` returns.
    """
    fields = [part for part in report["fields"] if part["shown"] and part["curve"]["thresholds"]]
    classes = report["classes"][:MAX_CLASSES]
    columns, rows = max(2, len(classes)), max(1, len(fields))
    width, height = columns * PANEL_WIDTH, HEADER + rows * PANEL_HEIGHT

    def paint(figure: "Figure") -> None:
        figure.set_layout_engine("none")  # a tight one takes a second for each panel
        figure.text(28 / width, 1 - 26 / height, _write_title(report), fontsize=11)
        _draw_legend(figure, (20 / width, 1 - 34 / height))
        for row, part in enumerate(fields):
            for column, group in enumerate(classes):
                left, bottom = column * PANEL_WIDTH + 56, (rows - row - 1) * PANEL_HEIGHT + 50
                box = (left / width, bottom / height, 388 / width, 186 / height)
                _draw_panel(figure.add_axes(box), part, group)

    return draw_plot((width, height), paint)


def _write_title(report: Mapping[str, Any]) -> str:
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
    return title + (f"; {hidden} more classes in calibration.json" if hidden > 0 else "")


def _draw_legend(figure: "Figure", place: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [Patch(color=colour, alpha=0.45, label=name) for _, colour, name in _BARS]
    lines = [
        Line2D([], [], color=colour, linestyle=style, label=name)
        for _, colour, style, name in (*_CURVES, *_LINES)
    ]
    handles = [*marks, *lines]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=8, frameon=False)


def _draw_panel(axes: "Axes", part: Mapping[str, Any], group: str) -> None:
    thresholds = part["curve"]["thresholds"]
    low, high = thresholds[0], thresholds[-1]
    now, proposed = (_pick(part[name], group) for name in ("now", "proposed"))
    axes.set_title(f"{group:.60}\n{part['filter']}.{part['field']}", loc="left")
    text = "off now" if now is None else f"now {now:g}"
    text += ", none proposed" if proposed is None else f", proposed {proposed:g}"
    axes.set_title(text, loc="right", color=NOW if proposed is None else PROPOSED)
    axes.set_xlabel(part["score"])
    axes.set_xlim(low, high)
    shares = axes.twinx()
    shares.set_ylim(0, 1.01)
    shares.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.locator_params(axis="y", nbins=4)
    for side, name in ((axes, "images in a bar"), (shares, "accepted")):
        side.set_ylabel(name)
        side.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    shares.grid(axis="y")
    bars = [(_count_bins(part, name, group), colour) for name, colour, _ in _BARS]
    if all(heights is None for heights, _ in bars):
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "does not apply", color=NOW, ha="center", transform=axes.transAxes)
        return
    edges = np.linspace(low, high, BINS + 1)
    for heights, colour in bars:
        if heights is not None:
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.45)
    for name, colour, style, _ in _CURVES:
        curve = part["curve"].get(name, {}).get(group)
        if curve is not None:
            shares.plot(thresholds, curve, style, color=colour, linewidth=1.6)
    for name, colour, style, _ in _LINES:
        value = _pick(part[name], group)
        if value is not None:
            shares.axvline(value, color=colour, linestyle=style, linewidth=2)


def _count_bins(part: Mapping[str, Any], name: str, group: str) -> NDArray[np.float64] | None:
    """Returns (BINS,) shares of a set's images by score, or None where it has none."""
    found = part["sets"].get(name, {}).get(group)
    if found is None or not found["scores"]:
        return None
    ends = part["curve"]["thresholds"][0], part["curve"]["thresholds"][-1]
    counts, _ = np.histogram(np.clip(found["scores"], *ends), bins=BINS, range=ends)
    return np.asarray(counts / len(found["scores"]), np.float64)


def _pick(value: float | Mapping[str, float] | None, group: str) -> float | None:
    return value.get(group) if isinstance(value, Mapping) else value
