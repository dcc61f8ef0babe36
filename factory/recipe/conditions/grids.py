"""Series of a caption grid: each caption once, or as often as the grid states."""

import functools
from dataclasses import dataclass

from factory.catalog.captions.grid import (
    CaptionGrid,
    caption_at,
    count_captions,
    draw_caption,
    list_shares,
)
from factory.catalog.captions.weights import Given, Weights
from factory.core.hashing import compute_digest, derive_seed
from factory.core.spread import BITS, spread_point
from factory.data.records import Condition, Request
from factory.data.streams import Caption
from factory.recipe.conditions.series import OneClass


@dataclass(frozen=True)
class GridSeries:
    """Captions of a grid in a seeded order without repeats, then again with the next ordinal."""

    grid: CaptionGrid
    seed: int
    count: int

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: the grid's content."""
        content = {"kind": "caption", "grid": self.grid.describe()}
        return compute_digest("series", content)[:16]

    @property
    def label(self) -> str:
        """The grid's id."""
        return f"captions {self.grid.id}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Values of the grid's class attribute."""
        attribute = self.grid.class_attribute
        return tuple(self.grid.attributes[attribute]) if attribute else ()

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request; a permutation spreads any count over the grid."""
        total = count_captions(self.grid)
        position = permute(index % total, total, self.seed)
        return self._ask(index, caption_at(self.grid, position), index // total)

    def _ask(self, index: int, found: tuple[str, dict[str, str]], ordinal: int) -> Request:
        text, attributes = found
        class_name = attributes.get(self.grid.class_attribute or "")
        caption = Caption(text, tuple(attributes.items()))
        return Request(self.key, index, Condition(class_name, None, caption), ordinal)


@dataclass(frozen=True)
class WeightedSeries(GridSeries):
    """Captions of a grid as often as it states.

    Requests are slots that are tried until each has its image, so that filters which reject
    unevenly leave what is accepted as it was asked for.
    """

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Attribute -> value -> its share among captions that say the attribute."""
        return list_shares(self.grid)

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request; its ordinal is the index, as captions come again."""
        point = spread_point(derive_seed(self.seed, "captions", self.grid.id), index)
        return self._ask(index, draw_caption(self.grid, point, BITS), index)


@dataclass(frozen=True)
class ExpandedSeries(OneClass, WeightedSeries):
    """Captions of one class, as often as the grid states of it; the class stays the label."""

    class_name: str = ""

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Shares of what its captions say besides the class."""
        found = list_shares(self.grid)
        return {name: row for name, row in found.items() if name != self.grid.class_attribute}


def fix_class(grid: CaptionGrid, class_name: str) -> tuple[Weights, Given]:
    """Returns the shares that leave one class of a grid, as its `reweigh` takes them."""
    return ({grid.class_attribute: {class_name: 1.0}} if grid.class_attribute else {}), {}


def open_grid(grid: CaptionGrid, seed: int, count: int) -> GridSeries:
    """Returns the series of a grid: weighted where the grid states shares."""
    kind = WeightedSeries if grid.is_weighted else GridSeries
    return kind(grid, seed, count)


def permute(position: int, total: int, seed: int) -> int:
    """Maps [0, total) onto itself, one to one, in a seeded order and in constant memory.

    A four-round Feistel network on the next even number of bits, walked until it lands inside
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    if total < 2:
        return position
    half = ((total - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for round_number in range(4):
            mixed = derive_seed(seed, "permute", round_number, right) & mask
            left, right = right, left ^ mixed
        position = left << half | right
        if position < total:
            return position
