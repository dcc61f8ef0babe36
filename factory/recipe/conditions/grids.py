"""Series of a caption grid: each caption once, or as often as the grid states."""

import functools
from dataclasses import dataclass

from factory.catalog.captions.grid import (
    CaptionGrid,
    count_captions,
    draw_words,
    list_shares,
    words_at,
)
from factory.catalog.captions.layout import Chosen, Template
from factory.catalog.captions.weights import Given, Weights
from factory.core.errors import InputError
from factory.core.hashing import compute_digest, derive_seed
from factory.core.spread import BITS, spread_point
from factory.core.yaml.messages import advise
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
        return Request(self.key, index, self._say(*self._find(index)), self._count(index))

    def vary_at(self, index: int, name: str, value: str) -> Condition | None:
        """Returns a request's condition with another value of an attribute; None: it says none.

        Template and words of all else stay; of the new value's wordings it takes the one at the
        place of the old, as far as there are so many.

        Raises:
            InputError: the attribute has no such value.
        """
        template, chosen = self._find(index)
        if name not in chosen:
            return None
        if value not in template.wordings[name]:
            near = advise(value, tuple(template.wordings[name]))
            raise InputError(f"{self.grid.id}: {name} has no value {value!r}: {near}")
        before, words = chosen[name]
        known = template.wordings[name][value]
        place = template.wordings[name][before].index(words) % len(known)
        return self._say(template, {**chosen, name: (value, known[place])})

    def _find(self, index: int) -> tuple[Template, Chosen]:
        total = count_captions(self.grid)
        return words_at(self.grid, permute(index % total, total, self.seed))

    def _count(self, index: int) -> int:
        return index // count_captions(self.grid)

    def _say(self, template: Template, chosen: Chosen) -> Condition:
        text, attributes = template.fill(chosen)
        class_name = attributes.get(self.grid.class_attribute or "")
        return Condition(class_name, None, Caption(text, tuple(attributes.items())))


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

    def _find(self, index: int) -> tuple[Template, Chosen]:
        point = spread_point(derive_seed(self.seed, "captions", self.grid.id), index)
        return draw_words(self.grid, point, BITS)

    def _count(self, index: int) -> int:
        """Returns the index: captions come again."""
        return index


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
