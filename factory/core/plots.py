"""Plots by matplotlib, the same bytes each time, and round numbers for an axis.

Matplotlib is imported when a plot is drawn. Figures hold no date, and SVG keeps text as text.
"""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 2
"""Pixels of a PNG for each px of its size."""
MAX_PIXELS = 16_000_000
"""Of a PNG; larger ones have one pixel for each px."""
INK = "#282828"
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "factory",
    "text.parse_math": False,
}


def draw_plot(
    size: tuple[float, float], paint: Callable[["Figure"], None], kind: str = "png"
) -> bytes:
    """Returns a picture of a figure.

    Args:
        size: width and height, px.
        paint: draws into the empty figure.
        kind: `png` (SCALE pixels for each px) or `svg`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style a notebook or a matplotlibrc has set
        mpl.rcParams.update(_STYLE)
        figure = Figure((size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        told = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        scale = SCALE if size[0] * size[1] * SCALE**2 <= MAX_PIXELS else 1
        figure.savefig(buffer, format=kind, dpi=72 * scale, metadata=told)
    drawn = buffer.getvalue()
    if kind == "svg":  # without a header, in px
        drawn = drawn[drawn.index(b"<svg") :].replace(b'pt"', b'"', 2)
    return drawn


def choose_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers in [low, high], about `most` of them."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
