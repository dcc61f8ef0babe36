"""Image-caption pairs of a data set: read, named by content, cleaned of leaks, picked by hash."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.core.errors import InputError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.images import decode_image, hash_pixels
from factory.core.thumbnails import Descriptors, compare_all, describe_images
from factory.data.folders import tell_kind
from factory.data.images import SourceImage, list_images
from factory.data.images.image import Wanted
from factory.data.varied import Varied, read_varied
from factory.filters.training_copy import TrainingCopyFilter

COPY: float = TrainingCopyFilter.Settings.model_fields["max_similarity"].default
"""Similarity above which the filter `training_copy` calls an image a copy."""

LEAKS = ("image", "near_copy", "caption", "reference", "group")
"""Why a held-out pair is dropped: the same pixels, a near-copy, the same words, a variation is
in training, or its patient or slide is."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with one caption.

    Attributes:
        source: where it lies.
        caption: as written.
        words: the caption as it is compared: in lower case, blanks joined.
        image: sha256 of the pixels.
        file: sha256 of the encoded bytes.
        parent: the real image that it is a variation of.
        group: patient or slide, where it is asked for and known.
    """

    source: SourceImage
    caption: str
    words: str
    image: str
    file: str
    parent: Varied | None
    group: str | None


@dataclass(frozen=True, slots=True)
class PairSet:
    """The pairs of one data set.

    Attributes:
        root: where it lies.
        pairs: in the order of the source.
        descriptors: (N, 256) for near-copies.
        without_caption: images passed over, as nothing is said of them.
        files: that all images lie in.
    """

    root: Path
    pairs: tuple[Pair, ...]
    descriptors: Descriptors
    without_caption: int
    files: tuple[Path, ...]


def read_pairs(root: Path, columns: Wanted | None = None) -> PairSet:
    """Reads and decodes every image that has a caption.

    Args:
        root: anything that `list_images` reads; of a finished run the references are known, too.
        columns: of captions, and of groups, which a run has none of.

    Raises:
        SourceError: images that cannot be read.
        InputError: no captions.
    """
    columns = columns or Wanted()
    is_run = tell_kind(root).has_rows
    images = list_images(
        root,
        image_column=None if is_run else columns.image,
        caption_column=columns.caption,
        group_column=None if is_run else columns.group,
        group_pattern=None if is_run else columns.pattern,
        may_lack=is_run,
    )
    pairs, descriptors = [], []
    for source, parent in zip(images, read_varied(images), strict=True):
        if source.caption is None:
            continue
        data = source.read_bytes()
        pixels = decode_image(data, source.place)
        words = " ".join(source.caption.lower().split())
        image, file = hash_pixels(pixels), hash_bytes(data)
        pairs.append(Pair(source, source.caption, words, image, file, parent, source.group))
        descriptors.append(describe_images(pixels[None]))
    if not pairs:
        raise InputError(
            f"{root}: none of its {len(images)} images has a caption: give pairs (columns caption, "
            "text or txt; metadata.csv in a folder), or name the column with --caption-column"
        )
    files = tuple(dict.fromkeys(image.path for image in images))
    without = len(images) - len(pairs)
    return PairSet(root, tuple(pairs), np.concatenate(descriptors), without, files)


def drop_leaks(
    held_out: PairSet, training: Sequence[PairSet]
) -> tuple[tuple[Pair, ...], dict[str, int]]:
    """Returns the held-out pairs that no training set knows, and how many went for which reason.

    A pair with several reasons counts for the first of LEAKS.
    """
    known = [pair for each in training for pair in each.pairs]
    pixels = {pair.image for pair in known}
    words = {pair.words for pair in known}
    parents = [pair.parent for pair in known if pair.parent is not None]
    files = {parent.sha256 for parent in parents}
    shown = {parent.pixels_sha256 for parent in parents}
    groups = {pair.group for pair in known} - {None}
    others = np.concatenate([each.descriptors for each in training]).astype(np.float32)
    kept, dropped = [], Counter(dict.fromkeys(LEAKS, 0))
    similar = compare_all(held_out.descriptors, others)
    for pair, similarity in zip(held_out.pairs, similar, strict=True):
        if pair.image in pixels:
            dropped["image"] += 1
        elif similarity > COPY:
            dropped["near_copy"] += 1
        elif pair.words in words:
            dropped["caption"] += 1
        elif pair.file in files or pair.image in shown:
            dropped["reference"] += 1
        elif pair.group in groups:
            dropped["group"] += 1
        else:
            kept.append(pair)
    return tuple(kept), dict(dropped)


def pick_pairs(pairs: Sequence[Pair], count: int) -> tuple[Pair, ...]:
    """Returns `count` pairs, those of the lowest hash of image and words; their order is kept."""
    keys = [compute_digest("retrieval-pick", [pair.image, pair.words]) for pair in pairs]
    lowest = sorted(range(len(pairs)), key=lambda row: (keys[row], row))[:count]
    return tuple(pairs[row] for row in sorted(lowest))


def hash_pairs(pairs: Sequence[Pair]) -> str:
    """Returns one digest of images and captions in order."""
    return compute_digest("pairs", [[pair.image, pair.caption] for pair in pairs])
