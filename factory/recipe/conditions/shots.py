"""Shots: a few real images of each class, chosen by seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.core.errors import SourceError
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage, check_fit, list_classes
from factory.data.images.reader import ImageReader
from factory.data.shots import rank_shots, take_shots
from factory.data.varied import Labelled
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    ConditionKind,
    ImageSettings,
    PerClass,
    expand_per_class,
)

Chosen = tuple[SourceImage, str]
"""An image, and the sha256 of its bytes."""


class ShotSettings(ImageSettings):
    """What a block says that goes out from a few labelled images of each class."""

    per_class: PerClass = Field(description="accepted images: one number, or class -> number")
    shots: int | None = Field(None, ge=1, description="labelled images per class, chosen by seed")


class ShotKind(ConditionKind):
    """A block that goes out from shots: a few labelled images of each class, chosen by seed."""

    settings: Any

    @property
    def images(self) -> BlockImages:
        """The images that shots are chosen of."""
        block: BlockImages = self.settings.block
        return block

    def list_used(self, session: Session, seed: int) -> Sequence[SourceImage]:
        """Returns the chosen shots; raises as `choose`."""
        return [image for mine in self.choose(session, seed).values() for image, _ in mine]

    def choose(self, session: Session, seed: int) -> dict[str, tuple[Chosen, ...]]:
        """Returns the shots of each class that is asked for.

        Raises:
            SourceError: images that cannot be read, too few, or none of a class.
        """
        asked, shots = self.settings.per_class, self.settings.shots
        return choose_by_class(self.images, asked, shots, session, seed)

    def check_block(self, findings: Findings, path: FieldPath) -> tuple[str, ...]:
        """Notes what is wrong with images and counts, and the classes asked for; returns these."""
        settings = self.settings
        given = (settings.per_class, settings.shots)
        _, names = check_shots(findings, path, self.images, *given)
        findings.asked.add(names, (*path, "per_class"), keyed=isinstance(settings.per_class, dict))
        return names


def choose_shots(
    images: Sequence[SourceImage],
    shots: int | None,
    seed: int,
    where: str,
    reader: ImageReader | None = None,
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
    reader = reader or ImageReader()
    unique = {reader.hash_bytes(image): image for image in images}
    chosen = rank_shots(unique, seed)
    if shots is not None:
        chosen = take_shots(chosen, unique, shots, where, reader)
    return tuple((unique[sha], sha) for sha in chosen)


def group_by_class(
    images: Sequence[SourceImage], per_class: PerClass, root: Path
) -> dict[str, list[SourceImage]]:
    """Returns the images of each class that is asked for; "" is that of images without.

    Raises:
        SourceError: a class that has none.
    """
    names, found = list_classes(images), dict[str, list[SourceImage]]()
    for name in expand_per_class(per_class, names or ("",)):
        found[name] = [image for image in images if (image.class_name or "") == name]
        if not found[name]:
            has = ", ".join(names) or "no classes"
            raise SourceError(f"{root}: no images of class {name!r}: it has {has}")
    return found


def choose_by_class(
    block: BlockImages, per_class: PerClass, shots: int | None, session: Session, seed: int
) -> dict[str, tuple[Chosen, ...]]:
    """Returns the shots of each class that is asked for; raises as the two above."""
    root = session.resolve(block.path)
    return {
        name: choose_shots(mine, shots, seed, f"{root} ({name})", session.images)
        for name, mine in group_by_class(block.list(session), per_class, root).items()
    }


def label_shots(chosen: Sequence[Chosen], session: Session) -> tuple[Labelled, ...]:
    """Returns by which hashes rows tell the shots that gave their class."""
    groups = read_groups([image for image, _ in chosen])
    return tuple(
        Labelled(sha256, session.images.hash_pixels(image), group)
        for (image, sha256), group in zip(chosen, groups, strict=True)
    )


def check_shots(
    findings: Findings,
    path: FieldPath,
    block: BlockImages,
    per_class: PerClass,
    shots: int | None,
    fit: str | None = None,
) -> tuple[Mapping[str, int] | None, tuple[str, ...]]:
    """Notes images that are missing, too small or too few, and classes that they lack.

    Args:
        findings: what is wrong.
        path: of the block, whose images `images` names.
        block: where they are.
        per_class: as the block asks.
        shots: of each class; None: all.
        fit: how images are brought to the model's size; None: any size will do.

    Returns:
        Class (or an empty name) -> images, None where they are not known; and the classes.
    """
    counts: Mapping[str, int] | None = None
    if block.check_groups(findings, path) and findings.check_files:
        counts = _count(findings, (*path, "images"), block, fit)
    place: FieldPath = (*path, "per_class")
    if isinstance(per_class, int):
        names = tuple(name for name in counts or () if name)
    else:
        names = tuple(per_class)
        if not names:
            findings.add(place, "names no class: add class: count")
        findings.check_names(names, None if counts is None else (*counts,), place, "the images")
    for name in names or ("",):
        has = None if counts is None else counts.get(name)
        if shots is not None and has is not None and has < shots:
            of = f" of class {name}" if name else ""
            message = f"{shots} asked for, but there are {has} images{of}: lower shots"
            findings.add((*path, "shots"), message)
    return counts, names


def _count(
    findings: Findings, place: FieldPath, block: BlockImages, fit: str | None
) -> Mapping[str, int] | None:
    """Returns class (or an empty name) -> images, or None with the problem noted."""
    session = findings.loaded.session
    try:
        images = block.list(session)
        if findings.pixels is not None and fit is not None:
            root, read_size = session.resolve(block.path), session.images.read_size
            check_fit(images, *findings.pixels, fit, root, read_size)
    except SourceError as error:
        findings.add(place, str(error))
        return None
    return Counter(image.class_name or "" for image in images)
