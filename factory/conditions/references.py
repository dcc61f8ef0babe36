"""Reference conditions: variations of a few real images of each class."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factory.errors import SourceError
from factory.fingerprint import compute_digest, hash_bytes
from factory.images import hash_pixels
from factory.records import Condition, Reference, Request
from factory.sources import SourceImage


@dataclass(frozen=True)
class ReferenceSeries:
    """Variations of one class's references, taken in turn; so do the attempts of one request.

    The ordinal is the index in the series, so that no two tries share condition, ordinal and
    attempt.
    """

    class_name: str | None
    references: tuple[Reference, ...]
    caption: str | None
    count: int

    @functools.cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """One condition for each reference, in rank order."""
        return tuple(
            Condition(self.class_name, self.caption, reference) for reference in self.references
        )

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its conditions in order."""
        conditions = [condition.describe() for condition in self.conditions]
        return compute_digest("series", {"kind": "reference", "conditions": conditions})[:16]

    @property
    def label(self) -> str:
        """The class, or what it varies."""
        return f"{self.class_name or 'images'} (references)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class, if the references have one."""
        return () if self.class_name is None else (self.class_name,)

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: it starts with reference `index` modulo their number."""
        condition = self.conditions[index % len(self.conditions)]
        return Request(self.key, index, condition, index, self.conditions)


def rank_shots(unique: Mapping[str, SourceImage], seed: int) -> list[str]:
    """Returns the hashes of images in the order in which `choose_shots` takes them."""
    ranked = sorted(unique, key=lambda sha: compute_digest("shot", [seed, sha]))
    turns: Counter[str] = Counter()
    order = []
    for rank, sha in enumerate(ranked):
        group = unique[sha].group or sha
        order.append((turns[group], rank, sha))
        turns[group] += 1
    return [sha for _, _, sha in sorted(order)]


def take_shots(
    ranked: Sequence[str], unique: Mapping[str, SourceImage], shots: int, where: str
) -> list[str]:
    """Returns the first hashes whose images differ in their pixels: each image counts once.

    Raises:
        SourceError: fewer images than shots, or one that cannot be decoded.
    """
    chosen: dict[str, str] = {}
    for sha in ranked:
        if len(chosen) == shots:
            break
        chosen.setdefault(hash_pixels(unique[sha].read_pixels()), sha)
    if len(chosen) < shots:
        raise SourceError(
            f"{where}: shots: {shots} asked for, but it has {len(chosen)} different images: "
            "lower shots or add images"
        )
    return [*chosen.values()]


def choose_shots(
    images: Sequence[SourceImage], shots: int | None, seed: int, where: str
) -> tuple[tuple[SourceImage, str], ...]:
    """Chooses the references of one class by seed, spread over patients or slides.

    Images are ranked by a keyed hash of their bytes; every group gives its first before any gives
    its second. So 5 shots are the first 5 of 10, and the order of files does not matter.
    Images with the same pixels count once.

    Returns:
        (image, sha256 of its bytes) in rank order; all of them where `shots` is None.

    Raises:
        SourceError: fewer images than shots, or a shot that cannot be decoded.
    """
    unique = {hash_bytes(image.read_bytes()): image for image in images}
    chosen = rank_shots(unique, seed)
    if shots is not None:
        chosen = take_shots(chosen, unique, shots, where)
    return tuple((unique[sha], sha) for sha in chosen)
