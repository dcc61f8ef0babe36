"""Caption conditions: images of a catalog grid's captions, or of a file's."""

from collections import Counter
from dataclasses import dataclass

from factory.catalog.catalog import CaptionGrid, caption_at, count_captions
from factory.core.hashing import compute_digest, derive_seed
from factory.data.records import Condition, Request


@dataclass(frozen=True)
class GridSeries:
    """Captions of a grid in a seeded order without repeats, then again with the next ordinal."""

    grid: CaptionGrid
    seed: int
    count: int

    @property
    def key(self) -> str:
        """Identity of the series: the grid's content."""
        grid = self.grid.model_dump(mode="json", exclude={"title"})
        return compute_digest("series", {"kind": "caption", "grid": grid})[:16]

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
        caption, attributes = caption_at(self.grid, position)
        class_name = attributes.get(self.grid.class_attribute or "")
        return Request(self.key, index, Condition(class_name, caption), index // total)


@dataclass(frozen=True)
class ListSeries:
    """Captions of a file in file order, then again with the next ordinals.

    A caption that stands in the file several times gets an ordinal for each time, so that equal
    captions give different images.
    """

    name: str
    captions: tuple[str, ...]
    classes: tuple[str | None, ...]
    count: int

    def __post_init__(self) -> None:
        seen: Counter[tuple[str, str | None]] = Counter()
        ranks = []
        for entry in zip(self.captions, self.classes, strict=True):
            ranks.append(seen[entry])
            seen[entry] += 1
        content = [self.captions, self.classes]
        object.__setattr__(self, "_ranks", tuple(ranks))
        object.__setattr__(self, "_repeats", seen)
        digest = compute_digest("series", {"kind": "caption", "list": content})
        object.__setattr__(self, "_key", digest[:16])

    @property
    def key(self) -> str:
        """Identity of the series: the captions and classes in order."""
        return str(self._key)  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The file's name."""
        return f"captions {self.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the file, in order of appearance."""
        return tuple(dict.fromkeys(name for name in self.classes if name is not None))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.captions))
        entry = (self.captions[row], self.classes[row])
        ordinal = cycle * self._repeats[entry] + self._ranks[row]  # type: ignore[attr-defined]
        return Request(self.key, index, Condition(entry[1], entry[0]), ordinal)


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
