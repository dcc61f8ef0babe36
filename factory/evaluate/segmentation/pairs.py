"""Images with their masks: a folder of label maps, or the column `mask` of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError, SourceError, StoreError
from factory.core.hashing import compute_digest, hash_bytes
from factory.data.channel_files import name_key
from factory.data.groups import read_groups
from factory.data.images import fit_image, iterate_rows
from factory.data.images.image import Wanted
from factory.data.label_maps import (
    INSTANCES,
    TURNS,
    Labels,
    Values,
    code_instances,
    decode_labels,
    fit_labels,
    hash_labels,
    list_ids,
    turn_labels,
)
from factory.data.objects import find_objects
from factory.data.provenance import read_origin
from factory.data.splits import find_leaks
from factory.evaluate.image_sets import Fit, ImageSet, list_set
from factory.evaluate.translation.pairs import list_masks


@dataclass(frozen=True, slots=True)
class Reading:
    """How images and masks are read: px, fit, values of real masks, and ids that count."""

    size: int
    fit: Fit
    values: Values = "ids"
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MaskedSet:
    """Images in memory, with the objects of their masks.

    Attributes:
        images: where they come from.
        pixels: (N, S, S, 3) uint8 RGB.
        objects: (N, S, S) int32, 1 .. n where an object is, 0 elsewhere.
        is_object: (N, S, S) bool, what the masks mark, specks too.
        groups: (N,) hash of the patient or slide of image or mask; None where it is not known.
        sources: (N,) hash of the map that each mask was cut from.
    """

    images: ImageSet
    pixels: NDArray[np.uint8]
    objects: NDArray[np.int32]
    is_object: NDArray[np.bool_]
    groups: tuple[str | None, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """Identity of the masks, in order."""
        parts = zip(self.objects, self.is_object, strict=True)
        return compute_digest("masks", [hash_bytes(a.tobytes() + b.tobytes()) for a, b in parts])


@dataclass(frozen=True, slots=True)
class _Map:
    """An encoded label map; of a row also its values, and the hash of the map it was cut from."""

    data: bytes
    place: str
    values: Values | None = None
    source: str | None = None


def read_masked(
    root: Path, masks: Path | None, reading: Reading, wanted: Wanted | None = None
) -> MaskedSet:
    """Reads images and masks.

    Args:
        root: images of any source.
        masks: folder of label maps named as the images are; None: the column `mask` of rows.
        reading: how.
        wanted: columns of images and patients.

    Raises:
        SourceError: an image or mask that cannot be read, or is smaller than a crop.
        InputError: an image without a mask, or one of another size.
    """
    images = list_set(root, size=reading.size, fit=reading.fit, columns=wanted)
    pixels, objects, marked, sources = [], [], [], []
    listed = _list_files(images, masks) if masks is not None else _list_cells(images)
    for image, each in zip(images.images, listed, strict=True):
        place = each.place
        found, labels = image.read_pixels(), decode_labels(each.data, place)
        if found.shape[:2] != labels.shape:
            got, want = ("{1} x {0}".format(*array.shape) for array in (labels, found))
            raise InputError(f"{place}: {got} px, its image {image.place} {want}: bring to one")
        fitted = fit_labels(labels, reading.size, reading.size, reading.fit, place)
        numbered, is_object = _find(fitted, each.values or reading.values, reading.ids, place)
        pixels.append(fit_image(found, reading.size, reading.size, reading.fit))
        objects.append(numbered)
        marked.append(is_object)
        sources.append(each.source or hash_labels(labels))
    arrays = (np.stack(pixels), np.stack(objects), np.stack(marked))
    return MaskedSet(images, *arrays, read_groups(images.images), tuple(sources))


def refuse_shared(train: MaskedSet, test: MaskedSet) -> None:
    """Refuses images, patients and masks, turned or otherwise cut, that lie on both sides.

    Raises:
        InputError: says which.
        SourceError: an image that cannot be read.
    """
    sides = f"{train.images.root} and {test.images.root}"
    found = find_leaks(train.images.images, test.images.images)
    if found:
        raise InputError(f"{sides} share {found}: take them out of one")
    groups = {each for each in train.groups if each is not None} & set(test.groups)
    if groups:
        raise InputError(f"{sides} share {len(groups)} patients or slides: take them out of one")
    known = set().union(*_hash_masks(test))
    shared = sum(not known.isdisjoint(each) for each in _hash_masks(train))
    if shared:
        raise InputError(f"{sides} share {shared} masks: ask by masks of other images")


def _hash_masks(side: MaskedSet) -> Iterator[set[str]]:
    """Yields hashes of each mask, whichever way it is turned, and of the map it was cut from.

    One that marks nothing or everything is none: it tells nothing of its image.
    """
    for mask, source in zip(side.is_object, side.sources, strict=True):
        turned = (hash_labels(turn_labels(mask.astype(np.uint8), turn)) for turn in range(TURNS))
        yield {min(turned), source} if mask.any() and not mask.all() else set()


def _find(
    labels: Labels, values: Values, ids: Sequence[int], place: str
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Returns numbered objects, without specks, and what is marked."""
    if values == "objects":
        if ids:
            raise InputError("--ids: objects 1 .. n have no ids: leave it out")
        labels = code_instances(labels, 1, place)
    elif values == "coded" and ((labels > 0) & (labels < INSTANCES)).any():
        raise InputError(f"{place}: has values under {INSTANCES}, which code no id: see --values")
    has_instances = values != "ids"
    known = list_ids(labels) if has_instances else labels
    marked = np.isin(known, ids) if ids else known > 0
    found = find_objects(np.where(marked, labels, 0).astype(labels.dtype), has_instances)
    return found.labels.astype(np.int32), marked


def _list_files(images: ImageSet, masks: Path) -> Iterator[_Map]:
    keys = [name_key(Path(image.key)) for image in images.images]
    paths = list_masks(masks, keys) or {}
    for key in keys:
        try:
            yield _Map(paths[key].read_bytes(), str(paths[key]))
        except OSError as error:
            raise SourceError(f"{paths[key]}: cannot be read ({error})") from error


def _list_cells(images: ImageSet) -> Iterator[_Map]:
    """Yields the masks of rows; those of runs say themselves whether objects are told apart."""
    rows = iterate_rows(images.images, ("mask", "provenance"))
    for image, row in zip(images.images, rows, strict=True):
        data: Any = (row.get("mask") or {}).get("bytes")
        if data is None:
            raise InputError(
                f"{image.place}: has no mask: give a folder of label maps with --masks or "
                "--test-masks, or a run of conditions with masks (kind: mask, layout)"
            )
        yield _Map(data, f"mask of {image.place}", *_tell_values(row, image.place))


def _tell_values(row: Any, place: str) -> tuple[Values | None, str | None]:
    try:
        told = (read_origin(row, place).model_extra or {}).get("condition")
    except StoreError as error:
        raise SourceError(str(error)) from error
    control = told.get("control") if isinstance(told, dict) else None
    if not isinstance(control, dict):
        return None, None
    return "coded" if control.get("instances") else "ids", control.get("sha256")
