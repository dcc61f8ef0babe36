"""Leaks: images and patients that occur both among images in use and in a held-out set."""

from collections.abc import Sequence
from dataclasses import dataclass

from factory.fingerprint import hash_bytes
from factory.sources import SourceImage


@dataclass(frozen=True, slots=True)
class Leaks:
    """What both sets have.

    Attributes:
        images: (in use, held out) of byte-identical images.
        groups: patients or slides that occur in both, sorted.
    """

    images: tuple[tuple[SourceImage, SourceImage], ...]
    groups: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.images or self.groups)

    def __str__(self) -> str:
        said = []
        if self.images:
            used, held_out = self.images[0]
            count = f"{len(self.images)} image{'s' if len(self.images) > 1 else ''}"
            said.append(f"{count}, such as {used.place} = {held_out.place}")
        if self.groups:
            many = "s" if len(self.groups) > 1 else ""
            more = ", ..." if len(self.groups) > 3 else ""
            listed = ", ".join(self.groups[:3])
            said.append(f"{len(self.groups)} patient{many} or slide{many} ({listed}{more})")
        return " and ".join(said)


def find_leaks(used: Sequence[SourceImage], held_out: Sequence[SourceImage]) -> Leaks:
    """Compares two sets by the bytes of their images, and by groups where both know them.

    Raises:
        SourceError: an image that cannot be read.
    """
    known = {hash_bytes(image.read_bytes()): image for image in held_out}
    hashed = ((image, hash_bytes(image.read_bytes())) for image in used)
    shared = tuple((image, known[sha]) for image, sha in hashed if sha in known)
    groups = {image.group for image in used} & {image.group for image in held_out}
    return Leaks(shared, tuple(sorted(group for group in groups if group is not None)))
