"""Looks: unlabelled real images, dealt into groups that each show how tissue looks on one slide."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from factory.core.errors import SourceError
from factory.core.stain_transfer import measure_look
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images.fields import NamedImages
from factory.data.shots import rank_shots
from factory.data.streams.stain import Stain
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import BlockImages
from factory.recipe.conditions.shots import Chosen


class Unlabelled(NamedImages):
    """Real images of which no class is read."""

    images: Path = Field(description="real images of other slides; their classes are not read")

    @property
    def block(self) -> BlockImages:
        """Where they are."""
        return BlockImages(self.images, columns=self.columns)

    def check(self, findings: Findings, path: FieldPath) -> bool:
        """Whether its images are there; notes it where they are missing."""
        if not self.block.check_groups(findings, path) or not findings.check_files:
            return False
        try:
            self.block.list(findings.loaded.session)
        except SourceError as error:
            findings.add((*path, "images"), str(error))
            return False
        return True


class Stains(Unlabelled):
    """Stains of unlabelled images, which shots are given (Reinhard et al. 2001)."""

    looks: int = Field(16, ge=1, le=1024, description="stains, in turn")
    per_look: int = Field(
        4, ge=1, le=1024, description="images that tell one; of one patient or slide where known"
    )

    def measure(self, session: Session, seed: int) -> tuple[Stain, ...]:
        """Returns the stains.

        Raises:
            SourceError: images that cannot be read, or none with tissue.
        """
        found = []
        for dealt in deal_looks(self.block, session, seed, self.looks, self.per_look):
            look = measure_look(image.read_pixels() for image, _ in dealt)
            if look is not None:
                images = [image for image, _ in dealt]
                hashes = tuple(session.images.hash_pixels(image) for image in images)
                groups = {each for each in read_groups(images) if each is not None}
                found.append(Stain(look, hashes, tuple(sorted(groups))))
        if not found:
            place = session.resolve(self.images)
            raise SourceError(f"{place}: stains: no image has tissue to tell a stain by")
        return tuple(found)


def rank_images(block: BlockImages, session: Session, seed: int) -> list[Chosen]:
    """Returns images in an order by seed, spread over patients or slides; equal files once.

    Raises:
        SourceError: images that are missing or cannot be read.
    """
    unique = {session.images.hash_bytes(image): image for image in block.list(session)}
    return [(unique[sha256], sha256) for sha256 in rank_shots(unique, seed)]


def deal_looks(
    block: BlockImages, session: Session, seed: int, looks: int, per_look: int
) -> list[list[Chosen]]:
    """Deals images into at most `looks` looks of `per_look` each, patients or slides in turn.

    Where the patient or slide of every image is known a look is of one of them, and may be of fewer
    images; else a look is of any. Raises as `rank_images`.
    """
    ranked = rank_images(block, session, seed)
    groups = read_groups([image for image, _ in ranked])
    if None in groups:
        cut = range(0, len(ranked), per_look)
        return [ranked[start : start + per_look] for start in cut][:looks]
    slides: dict[str | None, list[Chosen]] = {}
    for chosen, group in zip(ranked, groups, strict=True):
        slides.setdefault(group, []).append(chosen)
    found: list[list[Chosen]] = []
    while slides and len(found) < looks:
        for group in list(slides):
            found.append(slides[group][:per_look])
            slides[group] = slides[group][per_look:]
            if not slides[group]:
                del slides[group]
    return found[:looks]


def pair_all(shots: int, looks: int) -> Iterator[tuple[int, int]]:
    """Yields every (shot, look): shots in turn, and with each turn another look of each."""
    for turn in range(looks):
        for shot in range(shots):
            yield shot, (turn + shot) % looks
