"""The real images that `realism` compares with: which ones, their hashes, groups and pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.data.groups import hash_group
from factory.data.images import SourceImage, fit_image
from factory.data.images.reader import ImageReader
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.filters.realism import RealismFilter

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class RealImage:
    """One real image: `sha256` of its encoded bytes, `group_sha256` of its patient or slide."""

    source: SourceImage
    sha256: str
    group_sha256: str | None

    @property
    def class_name(self) -> str | None:
        """Its class, if the set has classes."""
        return self.source.class_name


@dataclass(frozen=True, slots=True)
class RealSet:
    """The images used, sorted by hash; `found` are all different ones that there were."""

    images: tuple[RealImage, ...]
    found: int
    root: Path

    @property
    def sha256(self) -> str:
        """Identity of the images used and of their classes."""
        named = [[image.sha256, image.class_name] for image in self.images]
        return compute_digest("real images", named)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the images, sorted; empty where the set has none."""
        return tuple(sorted({i.class_name for i in self.images if i.class_name is not None}))

    def iterate_blocks(self, width: int, height: int, fit: str) -> Iterator[NDArray[np.uint8]]:
        """Yields all images, in order, as (B, height, width, 3) uint8 RGB.

        Raises:
            SourceError: an image that cannot be read any more.
        """
        for start in range(0, len(self.images), _BLOCK):
            block = self.images[start : start + _BLOCK]
            pixels = (image.source.read_pixels() for image in block)
            yield np.stack([fit_image(each, width, height, fit) for each in pixels])


class ChosenImages(Protocol):
    """Settings that say which real images are used."""

    @property
    def images(self) -> Path:
        """Where they are."""
        ...

    @property
    def columns(self) -> dict[str, Any]:
        """How they are read: further arguments of `list_images`."""
        ...

    @property
    def limit(self) -> int:
        """Most that are used."""
        ...

    @property
    def seed(self) -> int:
        """Chooses them, where there are more."""
        ...


def read_real_set(settings: RealismFilter.Settings, session: Session) -> RealSet:
    """Reads a set that neighbours are looked for in; see `choose_real_set`.

    Raises:
        SourceError: unreadable images, one image in two classes, or too few of them.
    """
    found = choose_real_set(settings, session)
    check_real_set(found.images, settings.neighbours, found.root)
    return found


def choose_real_set(settings: ChosenImages, session: Session) -> RealSet:
    """Lists and hashes the real images, byte-identical ones once, and chooses `limit` of them.

    Classes take turns, so that few images of one are not lost among many of another; within a class
    the order is that of a keyed hash of the bytes, so that files may be renamed.

    Raises:
        SourceError: unreadable images, or one image in two classes.
    """
    root = session.resolve(settings.images)
    listed = session.images.list(root, **settings.columns)
    unique: dict[str, RealImage] = {}
    for source in listed:
        image = RealImage(source, session.images.hash_bytes(source), hash_group(source.group))
        known = unique.setdefault(image.sha256, image)
        if known.class_name != image.class_name:
            raise SourceError(
                f"{source.place}: the same image as {known.source.place}, of another class: "
                "remove one"
            )
    chosen = _choose(unique, settings.limit, settings.seed)
    ordered = tuple(sorted(chosen, key=lambda image: image.sha256))
    return RealSet(ordered, len(unique), root)


def check_real_set(images: Sequence[RealImage], neighbours: int, root: Path) -> None:
    """Refuses a set that is too small to measure distances within.

    Raises:
        SourceError: not more than `neighbours` + 1 images, or a class with a single one.
    """
    if len(images) < neighbours + 2:
        raise SourceError(
            f"{root}: {len(images)} different images are too few for {neighbours} neighbours: add "
            "images, or lower neighbours"
        )
    counts = Counter(image.class_name for image in images)
    for name, count in counts.items():
        if count < 2:
            where = "without a class folder" if name is None else f"of class {name!r}"
            raise SourceError(f"{root}: a single image {where}: add more, or remove it")


def check_pixels(sources: Sequence[SourceImage], reader: ImageReader) -> None:
    """Refuses images that cannot be read, before any sampling, and equal ones of two classes.

    Raises:
        SourceError: names the images.
    """
    seen: dict[str, SourceImage] = {}
    for source in sources:
        known = seen.setdefault(reader.hash_pixels(source), source)
        if known.class_name != source.class_name:
            raise SourceError(
                f"{source.place}: the same pixels as {known.place}, of another class: remove one"
            )


def _choose(unique: dict[str, RealImage], limit: int, seed: int) -> list[RealImage]:
    ranked = sorted(unique, key=lambda sha: compute_digest("real image", [seed, sha]))
    turns: Counter[str | None] = Counter()
    order = []
    for rank, sha in enumerate(ranked):
        name = unique[sha].class_name
        order.append((turns[name], rank, sha))
        turns[name] += 1
    return [unique[sha] for _, _, sha in sorted(order)[:limit]]
