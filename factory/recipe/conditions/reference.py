"""Reference conditions: variations of a few real images of each class."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from factory.core.hashing import compute_digest, hash_bytes
from factory.data.images import SourceImage
from factory.data.records import Condition, Reference, Request
from factory.data.shots import rank_shots, take_shots


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
