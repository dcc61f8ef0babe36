"""Real images of a study: listed with hashes and groups, drawn as shots, split, read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from factory.core.errors import EvaluationError, SourceError
from factory.core.files.kept import KeptRows
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.late import NDArray, np
from factory.data.images import SourceImage, check_fit, list_classes, list_images, read_fitted
from factory.data.images.reader import ImageReader
from factory.data.splits import hash_all

HELD_OUT_PARTS = 3
"""Without a test set, one part in so many is held out."""


@dataclass(frozen=True)
class LabelledSet:
    """Images with classes; `sha256s` are those of their bytes, in the same order."""

    root: str
    images: tuple[SourceImage, ...]
    sha256s: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return list_classes(self.images)

    @cached_property
    def pixels_sha256s(self) -> tuple[str, ...]:
        """Hashes of the pixels, the same for another file of the same image.

        Raises:
            SourceError: an image that cannot be decoded.
        """
        return hash_all(self.images)

    @property
    def digest(self) -> str:
        """Identity: classes and bytes, in no order."""
        pairs = zip(self.images, self.sha256s, strict=True)
        return compute_digest("images", sorted(f"{each.class_name}/{sha}" for each, sha in pairs))

    def take(self, rows: Sequence[int]) -> LabelledSet:
        """Returns some of the images."""
        return LabelledSet(
            self.root,
            tuple(self.images[row] for row in rows),
            tuple(self.sha256s[row] for row in rows),
        )

    def list_rows(self, class_name: str) -> list[int]:
        """Returns the rows of a class."""
        return [row for row, image in enumerate(self.images) if image.class_name == class_name]

    def thin(self, most: int, key: str) -> LabelledSet:
        """Returns up to `most` images of each class, chosen by `key` and their bytes."""
        rows: list[int] = []
        for name in self.class_names:
            mine = self.list_rows(name)
            rows += sorted(mine, key=lambda row: compute_digest(key, self.sha256s[row]))[:most]
        return self.take(rows)

    def index_labels(self, class_names: Sequence[str]) -> NDArray[np.int64]:
        """Returns (N,) positions of the classes in `class_names`."""
        return np.array([class_names.index(str(each.class_name)) for each in self.images], np.int64)


def list_real(
    root: Path,
    group_column: str | None = None,
    group_pattern: str | None = None,
    image_column: str | None = None,
) -> LabelledSet:
    """Lists real images, every one with a class.

    Raises:
        SourceError: they cannot be read, one has no class, or there is one class only.
    """
    images = list_images(
        root,
        image_column=image_column,
        group_column=group_column,
        group_pattern=group_pattern,
    )
    without = next((image.key for image in images if image.class_name is None), None)
    if without is not None:
        raise SourceError(f"{root}: {without} has no class: put it into a folder of its class")
    if len(list_classes(images)) < 2:
        raise SourceError(f"{root}: one class only: a study compares two or more")
    return make_set(str(root), images)


def make_set(root: str, images: Sequence[SourceImage]) -> LabelledSet:
    """Hashes images.

    Raises:
        SourceError: an image that cannot be read.
    """
    return LabelledSet(root, tuple(images), tuple(hash_bytes(each.read_bytes()) for each in images))


def check_test_classes(train: LabelledSet, test: LabelledSet) -> None:
    """Refuses a test set of other classes.

    Raises:
        SourceError: names the classes.
    """
    if train.class_names != test.class_names:
        raise SourceError(
            f"{test.root}: has the classes {', '.join(test.class_names)}, but {train.root} has "
            f"{', '.join(train.class_names)}: both need the same"
        )


def draw_shots(train: LabelledSet, shots: int, seed: int) -> LabelledSet:
    """Draws the shots of every class as a recipe's `shots` and `seed` do (`choose_shots`).

    Raises:
        SourceError: a class has fewer different images, or one cannot be decoded.
    """
    rows: list[int] = []
    for name in train.class_names:
        unique: dict[str, int] = {train.sha256s[row]: row for row in train.list_rows(name)}
        images = {sha: train.images[row] for sha, row in unique.items()}
        ranked = rank_shots(images, seed)
        taken = take_shots(ranked, images, shots, f"{train.root} ({name})")
        rows += [unique[sha] for sha in taken]
    return train.take(rows)


def split_held_out(real: LabelledSet) -> tuple[LabelledSet, LabelledSet]:
    """Splits off a test part whose patients or slides give no shot (equal pixels stay together).

    Returns:
        (train, test), every class in both.

    Raises:
        EvaluationError: too few patients or slides of a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = real.class_names
    labels = real.index_labels(names)
    first: dict[str, str] = {}
    pixels = real.pixels_sha256s
    for sha, alike in sorted(zip(real.sha256s, pixels, strict=True)):
        first.setdefault(alike, sha)
    groups = [image.group or first[sha] for image, sha in zip(real.images, pixels, strict=True)]
    few = [
        name
        for name in names
        if len({groups[row] for row in real.list_rows(name)}) < HELD_OUT_PARTS
    ]
    if not few:
        splitter = StratifiedGroupKFold(HELD_OUT_PARTS, shuffle=True, random_state=0)
        for train, test in splitter.split(labels, labels, groups):
            if len(set(labels[train])) == len(set(labels[test])) == len(names):
                return real.take(train.tolist()), real.take(test.tolist())
    raise EvaluationError(
        f"{real.root}: too few patients or slides of {', '.join(few) or 'a class'} to hold a part "
        "out: give --test"
    )


_BLOCK = 64
"""Images that are read before they are written down."""


class PixelReader:
    """Reads images as (N, size, size, 3) uint8 RGB, each once; a temporary file keeps them."""

    def __init__(self, size: int, fit: str) -> None:
        self.size, self.fit = size, fit
        self._known: KeptRows[str] = KeptRows(np.uint8)

    def check(self, images: LabelledSet) -> None:
        """Tells where little of real images is seen.

        Raises:
            SourceError: a crop would enlarge one.
        """
        check_fit(images.images, self.size, self.size, self.fit, images.root)

    def read(self, images: LabelledSet) -> NDArray[np.uint8]:
        """Returns the pixels of a set.

        Raises:
            SourceError: an image that cannot be decoded, or that a crop would enlarge.
        """
        named = dict(zip(images.sha256s, images.images, strict=True))
        lacking = self._known.list_lacking(named)
        for start in range(0, len(lacking), _BLOCK):
            part = lacking[start : start + _BLOCK]
            fitted = [read_fitted(named[sha], self.size, self.size, self.fit) for sha in part]
            self._known.add(part, np.stack(fitted))
        if not named:
            return np.zeros((0, self.size, self.size, 3), np.uint8)
        return self._known.read(images.sha256s)


def count_classes(images: LabelledSet, class_names: Sequence[str]) -> Mapping[str, int]:
    """Returns class -> images."""
    return {name: len(images.list_rows(name)) for name in class_names}


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
    ranked: Sequence[str],
    unique: Mapping[str, SourceImage],
    shots: int,
    where: str,
    reader: ImageReader | None = None,
) -> list[str]:
    """Returns the first hashes whose images differ in their pixels: each image counts once.

    Raises:
        SourceError: fewer images than shots, or one that cannot be decoded.
    """
    chosen: dict[str, str] = {}
    reader = reader or ImageReader()
    for sha in ranked:
        if len(chosen) == shots:
            break
        chosen.setdefault(reader.hash_pixels(unique[sha]), sha)
    if len(chosen) < shots:
        raise SourceError(
            f"{where}: shots: {shots} asked for, but it has {len(chosen)} different images: "
            "lower shots or add images"
        )
    return [*chosen.values()]
