"""Plots of a study as SVG: arms with their intervals, and the curve over synthetic images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from factory.core.plots import draw_plot
from factory.evaluate.fewshot.settings import PRIMARY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, ROW = 880, 34
COLOURS = ("#2166ac", "#e08214", "#148c3c", "#96469b", "#c81e3c", "#6e6e6e")


def draw_arms(results: Mapping[str, Any]) -> bytes:
    """Returns an SVG: each arm's balanced accuracy with its interval, for every count of shots.

    Args:
        results: what `build_results` returns.
    """
    studies = _list_studies(results)
    arms = list(dict.fromkeys(arm for study in studies.values() for arm in study["arms"]))

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title(
            "balanced accuracy, mean of draws and 95 % interval", loc="left", fontsize=13
        )
        axes.set_yticks(range(len(arms)), [_name(arm, studies) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        for number, study in enumerate(studies.values()):
            for row, arm in enumerate(arms):
                if arm in study["arms"]:
                    found = study["arms"][arm][PRIMARY]
                    y = row + 0.27 * (number - (len(studies) - 1) / 2)
                    colour = COLOURS[number % len(COLOURS)]
                    ends = [found["low"], found["high"]]
                    axes.plot(ends, [y, y], color=colour, linewidth=3, alpha=0.5)
                    axes.plot(found["mean"], y, "o", color=colour, markersize=7)
                    text, place = f"{found['mean']:.3f}", (found["high"], y)
                    axes.annotate(text, place, (6, 0), textcoords="offset points", va="center")
        _finish(figure, studies, "x")

    return draw_plot((WIDTH, 100 + ROW * len(arms)), paint, "svg")


def draw_curve(results: Mapping[str, Any]) -> bytes | None:
    """Returns an SVG: balanced accuracy over synthetic images of each class; None without any."""
    studies = {name: each for name, each in _list_studies(results).items() if each["curve"]}
    if not studies:
        return None

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_title(
            "real + synthetic: balanced accuracy, 95 % interval", loc="left", fontsize=13
        )
        axes.set_xlabel("synthetic images of each class")
        for number, study in enumerate(studies.values()):
            colour = COLOURS[number % len(COLOURS)]
            counts = [point["per_class"] for point in study["curve"]]
            low, mean, high = (
                [point[PRIMARY][name] for point in study["curve"]]
                for name in ("low", "mean", "high")
            )
            axes.vlines(counts, low, high, color=colour, linewidth=2, alpha=0.45)
            axes.plot(counts, mean, "o-", color=colour, linewidth=2, markersize=7)
        every = {point["per_class"] for study in studies.values() for point in study["curve"]}
        axes.set_xticks(sorted(every))
        most = max(1, *every)
        axes.set_xlim(-0.02 * most, 1.05 * most)  # the point at 0 whole
        _finish(figure, studies, "y")

    return draw_plot((WIDTH, 410), paint, "svg")


def _finish(figure: "Figure", studies: Mapping[str, Any], along: Literal["x", "y"]) -> None:
    """Draws the grid and, below the plot, which colour is which count of shots."""
    from matplotlib.lines import Line2D

    (axes,) = figure.axes
    axes.set_title(axes.get_title("left"), loc="left", fontsize=13)
    axes.grid(axis=along)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08)
    marks = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], marker="o", linestyle="")
        for number in range(len(studies))
    ]
    names = [f"{name} shots" for name in studies]
    figure.legend(marks, names, loc="outside lower center", ncols=6, frameon=False)


def _list_studies(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns shots -> results."""
    if "shots" in results:
        return dict(results["shots"])
    return {str(results["settings"]["shots"]): results}


def _name(arm: str, studies: Mapping[str, Mapping[str, Any]]) -> str:
    marks = [mark for each in studies.values() for mark in each["marks"].get(arm, ())]
    return arm + "".join(f" [{mark}]" for mark in dict.fromkeys(marks))
