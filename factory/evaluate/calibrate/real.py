"""The real set of a calibration: which images, brought to which size, and how far to trust them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.data.images import SourceImage, check_fit, fit_source
from factory.data.records import Condition, Sample
from factory.data.shots import rank_shots
from factory.evaluate.calibrate.scored import MISLABELLED, NO_CLASS, REAL, Scored
from factory.filters import score_all
from factory.filters.base import Filter
from factory.recipe.conditions.base import BlockImages
from factory.recipe.file import LoadedRecipe

BLOCK = 32
"""Images scored at once."""


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """A chosen real image, decoded; `group` is its class, or `NO_CLASS`."""

    source: SourceImage
    sha256: str
    group: str
    pixels: NDArray[np.uint8]
    fit: str


@dataclass
class RealChoice:
    """The chosen real images and what is to be said of them.

    `about["sha256"]` holds a digest of each whole folder with its classes, as classifiers keep it
    of what they were fitted on.
    """

    images: list[ChosenImage]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_real(
    loaded: LoadedRecipe,
    given: Path | None,
    classes: Sequence[str],
    most: int,
    image_column: str | None = None,
) -> RealChoice | None:
    """Reads real images: those given, else those of the recipe's reference conditions.

    Images of classes that the recipe does not ask for are left out. The choice among many is that
    of reference shots: by the recipe's seed, spread over patients.

    Args:
        loaded: the recipe.
        given: root of the set, or None.
        classes: that the recipe asks for; none: all images count, without class.
        most: images per class.
        image_column: of the images given.

    Returns:
        None where none are given and the recipe has no reference conditions.

    Raises:
        SourceError: unreadable images, or none of a class that is asked for.
    """
    sources = _list_sources(loaded, given, image_column)
    if not sources:
        return None
    session = loaded.session
    roots = ", ".join(str(session.resolve(source.path)) for source in sources)
    real = RealChoice([], {"path": roots, "given": given is not None})
    found, digests = 0, []
    for source in sources:
        images = source.list(session)
        is_labelled = any(image.class_name is not None for image in images)
        by_group: dict[str, dict[str, SourceImage]] = {}
        hashes = []
        for image in images:
            sha = session.images.hash_bytes(image)
            hashes.append(f"{image.class_name}/{sha}")
            name = image.class_name if classes and is_labelled else NO_CLASS
            by_group.setdefault(name or NO_CLASS, {}).setdefault(sha, image)
        if classes and is_labelled:
            _drop_unasked(real, by_group, classes, session.resolve(source.path))
        for name, mine in sorted(by_group.items()):
            chosen = rank_shots(mine, loaded.recipe.seed)[:most]
            real.images += [
                ChosenImage(mine[sha], sha, name, mine[sha].read_pixels(), source.fit)
                for sha in chosen
            ]
        digests.append(compute_digest("images", sorted(hashes)))
        found += len(images)
    _note_missing(real, classes)
    real.about |= {
        "fit": sources[0].fit,
        "images": len(real.images),
        "images_found": found,
        "sha256": digests,
    }
    return real


def score_real(
    filters: Sequence[Filter],
    real: RealChoice,
    size: tuple[int, int],
    with_captions: bool,
    mislabelled: bool = False,
) -> Iterator[Scored]:
    """Yields the real images' scores, with their class as the condition.

    Args:
        filters: the recipe's.
        real: the set.
        size: (height, width) of the generator's images, px.
        with_captions: whether an image's own caption belongs into its condition.
        mislabelled: with another class instead, each of the others in turn; needs two classes.

    Raises:
        FilterError: scoring failed.
    """
    height, width = size
    for fit in {each.fit for each in real.images}:
        images = [each.source for each in real.images if each.fit == fit]
        check_fit(images, width, height, fit, str(real.about["path"]))
    groups = sorted({each.group for each in real.images})
    for start in range(0, len(real.images), BLOCK):
        block = real.images[start : start + BLOCK]
        asked = [each.group for each in block]
        if mislabelled:
            asked = [
                _choose_other(group, groups, start + number) for number, group in enumerate(asked)
            ]
        samples = [
            Sample(fit_source(each.pixels, width, height, each.fit, each.source.place))
            for each in block
        ]
        conditions = [
            Condition(
                class_name=None if group == NO_CLASS else group,
                caption=each.source.caption if with_captions else None,
            )
            for each, group in zip(block, asked, strict=True)
        ]
        scored = score_all(filters, samples, conditions)
        for each, group, scores in zip(block, asked, scored, strict=True):
            name = MISLABELLED if mislabelled else REAL
            yield Scored(name, each.source.key, group, None, scores)


def has_classes(real: RealChoice) -> bool:
    """Says whether there are two classes, so that images can be asked for as another."""
    return len({each.group for each in real.images}) > 1


def _choose_other(group: str, groups: Sequence[str], number: int) -> str:
    others = [each for each in groups if each != group]
    return others[number % len(others)]


def asks_captions(loaded: LoadedRecipe) -> bool:
    """Says whether the recipe has caption conditions."""
    return any(block.is_caption for block in loaded.recipe.blocks)


def _list_sources(
    loaded: LoadedRecipe, given: Path | None, image_column: str | None
) -> list[BlockImages]:
    parts = [block.varied for block in loaded.recipe.blocks if block.varied is not None]
    if given is not None:
        fit = parts[0].fit if parts else "crop"
        return [BlockImages(given.absolute(), fit, {"image_column": image_column})]
    return list({part.path: part for part in parts}.values())


def _drop_unasked(
    real: RealChoice, by_group: dict[str, Any], classes: Sequence[str], root: Path
) -> None:
    has = sorted(by_group)
    unasked = [name for name in has if name not in classes]
    if len(unasked) == len(has):
        raise SourceError(
            f"{root}: has the classes {', '.join(has)}; the recipe asks for {', '.join(classes)}: "
            "give images of these, in folders of their names"
        )
    for name in unasked:
        real.notes.append(
            f"{len(by_group.pop(name))} real images of {name} are left out: the recipe does not "
            "ask for that class"
        )


def _note_missing(real: RealChoice, classes: Sequence[str]) -> None:
    groups = {each.group for each in real.images}
    if classes and groups == {NO_CLASS}:
        real.notes.append(
            "the real images have no classes: filters that ask for the class say nothing of them"
        )
        return
    missing = [name for name in classes if name not in groups]
    if missing:
        real.notes.append(
            f"no real images of {', '.join(missing)}: thresholds are chosen on the other classes"
        )
