"""A small canvas for plots: text, dashes, translucent bars and axes, drawn with Pillow."""

import io
import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
SCALE = 2
"""Drawn at twice the size, which keeps lines and text smooth."""
MAX_PIXELS = 16_000_000
"""Of the picture; larger ones are saved at the single size."""
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (40, 40, 40)


class Canvas:
    """An RGB picture whose coordinates are px of the single size, y downwards."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), WHITE)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def add_text(
        self, place: Point, text: str, size: int = 12, colour: Colour = BLACK, anchor: str = "la"
    ) -> None:
        """Writes text; `anchor` as in Pillow (`la`: place is its left top)."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text(_grow(place), text, fill=colour, font=font, anchor=anchor)

    def add_upright_text(self, place: Point, text: str, size: int = 11) -> None:
        """Writes text from bottom to top, centred on a place."""
        font = ImageFont.load_default(size * SCALE)
        left, top, right, bottom = (math.ceil(each) for each in font.getbbox(text))
        patch = Image.new("RGB", (right - left, bottom - top), WHITE)
        ImageDraw.Draw(patch).text((-left, -top), text, fill=BLACK, font=font)
        turned = patch.rotate(90, expand=True)
        x, y = _grow(place)
        self._image.paste(turned, (round(x - turned.width / 2), round(y - turned.height / 2)))

    def add_box(self, box: Box, fill: Colour, opacity: float = 1.0) -> None:
        """Fills a rectangle."""
        x0, y0, x1, y1 = (each * SCALE for each in box)
        if x1 > x0 and y1 > y0:
            self._draw.rectangle((x0, y0, x1, y1), fill=(*fill, round(255 * opacity)))

    def add_line(
        self, points: Sequence[Point], colour: Colour, width: float = 1.0, dash: float = 0.0
    ) -> None:
        """Draws a line through points; `dash` px long dashes, or none."""
        grown = [_grow(point) for point in points]
        thick = max(1, round(width * SCALE))
        for part in _cut_dashes(grown, dash * SCALE) if dash else [grown]:
            self._draw.line(part, fill=colour, width=thick, joint="curve")

    def encode(self) -> bytes:
        """Returns a PNG."""
        image = self._image
        if image.width * image.height > MAX_PIXELS:
            size = (image.width // SCALE, image.height // SCALE)
            image = image.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


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


def measure_text(text: str, size: int = 12) -> float:
    """Returns the width of a text, px."""
    return float(ImageFont.load_default(size * SCALE).getlength(text)) / SCALE


def _grow(place: Point) -> Point:
    return place[0] * SCALE, place[1] * SCALE


def _cut_dashes(points: Sequence[Point], length: float) -> list[list[Point]]:
    """Cuts a line into dashes with gaps as long as they are."""
    found: list[list[Point]] = []
    travelled = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        size = math.hypot(x1 - x0, y1 - y0)
        done = 0.0
        while done < size:
            phase = travelled % (2 * length)
            is_on = phase < length
            step = min(size - done, (length if is_on else 2 * length) - phase)
            step = max(step, 1e-3)
            if is_on:
                a, b = done / size, min(1.0, (done + step) / size)
                found.append(
                    [
                        (x0 + a * (x1 - x0), y0 + a * (y1 - y0)),
                        (x0 + b * (x1 - x0), y0 + b * (y1 - y0)),
                    ]
                )
            done, travelled = done + step, travelled + step
    return found
