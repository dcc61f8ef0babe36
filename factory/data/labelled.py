"""Labelled real images in memory, and folds that keep patients and slides whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, hash_bytes
from factory.data.images import SourceImage, list_classes, read_fitted

FOLDS = 5
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Row numbers to fit on, and row numbers held out."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Real images with classes: (N, S, S, 3) uint8, (N,) indices, and the groups if known."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    groups: NDArray[np.int64] | None
    sha256: str


def find_smallest_side(images: Sequence[SourceImage]) -> int:
    """Returns the smallest height or width found, px."""
    return min(int(min(image.read_pixels().shape[:2])) for image in images)


def read_labelled(
    root: Path,
    images: Sequence[SourceImage],
    size: int,
    fit: str,
    class_names: tuple[str, ...] | None = None,
) -> LabelledImages:
    """Reads images with classes into memory.

    Raises:
        SourceError: no class, a class not in `class_names`, fewer than two classes, or fewer than
            two images of a class (the last two only where `class_names` is not given).
    """
    without = next((image.key for image in images if image.class_name is None), None)
    if without is not None:
        raise SourceError(
            f"{root}: {without} has no class: put it into a folder of its class, or fill "
            "the class column"
        )
    names = class_names or list_classes(images)
    count = {name: sum(image.class_name == name for image in images) for name in names}
    if class_names is None:
        if len(names) < 2:
            raise SourceError(f"{root}: one class only ({names[0]}): a classifier needs two")
        few = [f"{name} ({n})" for name, n in count.items() if n < 2]
        if few:
            raise SourceError(f"{root}: fewer than 2 images of {', '.join(few)}: add some")
    unknown = sorted({str(image.class_name) for image in images} - set(names))
    if unknown:
        raise SourceError(f"{root}: classes {unknown} are not among {list(names)}")
    pixels, hashes = [], []
    for image in images:
        pixels.append(read_fitted(image, size, size, fit))
        hashes.append(f"{image.class_name}/{hash_bytes(image.read_bytes())}")
    groups = None
    if all(image.group is not None for image in images):
        order = {name: i for i, name in enumerate(sorted({str(image.group) for image in images}))}
        groups = np.array([order[str(image.group)] for image in images])
    labels = np.array([names.index(str(image.class_name)) for image in images], np.int64)
    digest = compute_digest("images", sorted(hashes))
    return LabelledImages(np.stack(pixels), labels, names, groups, digest)


def split_folds(real: LabelledImages, seed: int, warnings: list[str]) -> list[Fold]:
    """Splits into (fit, held out) folds, stratified, with groups kept whole where there are any.

    Appends to `warnings` what makes the numbers optimistic.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    classes = range(len(real.class_names))
    fewest = int(np.bincount(real.labels).min())
    if real.groups is None:
        warnings.append(
            "NO PATIENT OR SLIDE GROUPS: images of one patient may lie on both sides of a fold, so "
            "the held-out numbers are optimistic; give group_column or group_pattern"
        )
    else:
        groups = real.groups
        held = {c: len(np.unique(groups[real.labels == c])) for c in classes}
        single = [real.class_names[c] for c in classes if held[c] < 2]
        if not single:
            splitter = StratifiedGroupKFold(
                min(FOLDS, *held.values()), shuffle=True, random_state=seed
            )
            found = [*splitter.split(real.labels, real.labels, groups)]
            if all(set(real.labels[rows]) == set(classes) for rows, _ in found):
                return found
        warnings.append(
            "GROUPS NOT KEPT WHOLE: too few patients or slides of "
            f"{', '.join(single) or 'a class'} to hold some out, so the held-out numbers are "
            "optimistic"
        )
    splitter = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    return [*splitter.split(real.labels, real.labels)]
