"""The plot of dose-responses: a row for each thing varied, a panel for each measure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factory.core.plots import draw_plot
from factory.evaluate.robustness.words import list_asked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 150
MOVES, STILL, ASKED = "#b2182b", "#6e6e6e", "#2166ac"


def draw_response(varied: Mapping[str, Any]) -> bytes:
    """Returns an SVG: the mean of each measure over the values, with its interval.

    The grey band is the floor: about the mean of all values, as wide as a spread that 5 % of
    shuffles exceed.

    Args:
        varied: as the result holds it.
    """
    measures = list(dict.fromkeys(name for each in varied.values() for name in each["measures"]))

    def paint(figure: "Figure") -> None:
        grid = figure.subplots(len(varied), len(measures), squeeze=False, sharey="col")
        for row, (name, found) in zip(grid, varied.items(), strict=True):
            for axes, measure in zip(row, measures, strict=True):
                each = found["measures"][measure]
                _paint_one(axes, each, measure in list_asked(found))
                if measure == measures[0]:
                    axes.set_ylabel(name)
        for axes, measure in zip(grid[0], measures, strict=True):
            axes.set_title(measure)
        figure.supxlabel("blue: asked to move; red: moves though not asked; grey: does not move")

    return draw_plot((PANEL * len(measures) + 40, PANEL * len(varied) + 50), paint, "svg")


def _paint_one(axes: Any, found: Mapping[str, Any], is_asked: bool) -> None:
    points = found["response"]
    places = range(len(points))
    means = [each["mean"] for each in points.values()]
    if means:
        centre, half = sum(means) / len(means), found["floor"] / 2
        axes.axhspan(centre - half, centre + half, color="#dddddd")
        colour = ASKED if is_asked else MOVES if found["moves"] else STILL
        ends = [(each["low"], each["high"]) for each in points.values()]
        axes.vlines(places, *zip(*ends, strict=True), color=colour, alpha=0.5, linewidth=2)
        axes.plot(places, means, "o-", color=colour)
    axes.set_xticks(list(places), list(points))
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
