"""Plots: the same bytes each time, text that stays text, and a size that stays sane."""

import io

import matplotlib as mpl
from PIL import Image

from factory.core.plots import MAX_PIXELS, draw_plot


def paint(figure):
    axes = figure.add_subplot()
    axes.set_title("a $title$ < b")
    axes.plot([0, 1], [1, 2], "o-")


def test_an_svg_is_the_same_each_time_holds_no_date_and_keeps_text():
    svg = draw_plot((300, 200), paint, "svg")
    assert svg == draw_plot((300, 200), paint, "svg")
    assert svg.startswith(b"<svg") and b'width="300" height="200"' in svg
    assert b"a $title$ &lt; b</text>" in svg and b"sans-serif" in svg
    assert b"date" not in svg and b"Matplotlib" not in svg


def test_a_png_is_sharp_unless_it_is_huge():
    png = draw_plot((300, 200), paint)
    assert png == draw_plot((300, 200), paint)
    assert Image.open(io.BytesIO(png)).size == (600, 400)
    side = round((MAX_PIXELS / 4) ** 0.5) + 2
    assert Image.open(io.BytesIO(draw_plot((side, side), lambda figure: None))).width == side


def test_a_plot_has_its_own_style_whatever_the_notebook_has():
    def paint(figure):
        figure.add_subplot().set_title("on white")

    plain = [draw_plot((80, 60), paint, kind) for kind in ("png", "svg")]
    changed = {"figure.facecolor": "black", "savefig.transparent": True, "axes.grid": True}
    with mpl.rc_context({**changed, "savefig.bbox": "tight"}):
        assert [draw_plot((80, 60), paint, kind) for kind in ("png", "svg")] == plain
        assert mpl.rcParams["figure.facecolor"] == "black"
