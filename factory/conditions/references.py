"""Reference conditions: variations of a few real images of each class."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from factory.errors import SourceError
from factory.fingerprint import compute_digest, hash_bytes
from factory.records import Condition, Reference, Request
from factory.sources import SourceImage


@dataclass(frozen=True)
class ReferenceSeries:
    """Variations of one class's references, taken in turn."""

    class_name: str | None
    references: tuple[Reference, ...]
    caption: str | None
    count: int

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its conditions in order."""
        conditions = [self._condition_at(i).describe() for i in range(len(self.references))]
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
        """Returns the `index`-th request: reference `index` modulo their number."""
        ordinal, row = divmod(index, len(self.references))
        return Request(self.key, index, self._condition_at(row), ordinal)

    def _condition_at(self, row: int) -> Condition:
        return Condition(self.class_name, self.caption, self.references[row])


def choose_shots(
    images: Sequence[SourceImage], shots: int | None, seed: int, where: str
) -> tuple[tuple[SourceImage, str], ...]:
    """Chooses the references of one class by seed, spread over patients or slides.

    Images are ranked by a keyed hash of their bytes; every group gives its first before any gives
    its second. So 5 shots are the first 5 of 10, and the order of files does not matter.
    Byte-identical images count once.

    Returns:
        (image, sha256 of its bytes) in rank order; all of them where `shots` is None.

    Raises:
        SourceError: fewer images than shots.
    """
    unique = {hash_bytes(image.read_bytes()): image for image in images}
    ranked = sorted(unique, key=lambda sha: compute_digest("shot", [seed, sha]))
    turns: Counter[str] = Counter()
    order = []
    for rank, sha in enumerate(ranked):
        group = unique[sha].group or sha
        order.append((turns[group], rank, sha))
        turns[group] += 1
    chosen = [sha for _, _, sha in sorted(order)]
    if shots is not None:
        if len(chosen) < shots:
            raise SourceError(
                f"{where}: shots: {shots} asked for, but it has {len(chosen)} different images: "
                "lower shots or add images"
            )
        chosen = chosen[:shots]
    return tuple((unique[sha], sha) for sha in chosen)
