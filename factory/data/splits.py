"""Leaks: images and patients that occur both among images in use and in a held-out set."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from factory.data.images import SourceImage
from factory.data.images.reader import ImageReader


@dataclass(frozen=True, slots=True)
class Leaks:
    """What both sets have.

    Attributes:
        images: (in use, held out) of images with the same pixels.
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


def hash_all(images: Sequence[SourceImage], reader: ImageReader | None = None) -> tuple[str, ...]:
    """Returns the hash of each image's pixels, so that another file of the same image is found.

    Raises:
        SourceError: an image that cannot be decoded.
    """
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map((reader or ImageReader()).hash_pixels, images))


def find_leaks(
    used: Sequence[SourceImage],
    held_out: Sequence[SourceImage],
    reader: ImageReader | None = None,
) -> Leaks:
    """Compares two sets by the pixels of their images, and by groups where both know them.

    Raises:
        SourceError: an image that cannot be decoded.
    """
    known = dict(zip(hash_all(held_out, reader), held_out, strict=True))
    hashed = zip(used, hash_all(used, reader), strict=True)
    shared = tuple((image, known[sha]) for image, sha in hashed if sha in known)
    groups = {image.group for image in used} & {image.group for image in held_out}
    return Leaks(shared, tuple(sorted(group for group in groups if group is not None)))
