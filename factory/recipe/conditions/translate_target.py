"""What sources of a translation become, and by which real images that is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from factory.catalog.entries import ClassName as ClassWord
from factory.catalog.entries import PositiveFraction, Strict
from factory.core.errors import SourceError
from factory.core.notes import tell
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import check_fit
from factory.data.streams import Domain
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import BlockImages
from factory.recipe.conditions.looks import deal_looks, rank_images
from factory.recipe.conditions.shots import Chosen

Text = Annotated[str, Field(min_length=1)]


class Target(Strict):
    """What sources become, in words of the model: at least one of the three."""

    class_name: ClassWord | None = Field(None, description="a class of the model; labels the rows")
    caption: Text | None = Field(None, description="prompt, with {class_name} of the source")
    domain: Path | None = Field(None, description="real images of the target, unpaired")
    domain_images: int = Field(64, ge=1, le=1024, description="of these, chosen by seed")
    looks: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="with per_class: so many choices of domain_images, each of one patient or "
        "slide where known; sources meet them in turn",
    )
    group_column: str | None = Field(None, description="of domain: patient or slide column")
    group_pattern: str | None = Field(
        None, description="of domain: regex on its file names, one (group)"
    )

    @model_validator(mode="after")
    def _check_some(self) -> Self:
        if self.class_name is None and self.caption is None and self.domain is None:
            raise ValueError("says nothing: set class_name, caption or domain")
        if self.domain is None and (self.group_column or self.group_pattern):
            raise ValueError("group_column and group_pattern are of domain: remove them")
        if self.domain is None and self.looks is not None:
            raise ValueError("looks are of domain: name it, or remove them")
        return self

    def choose_domains(self, block: BlockImages, session: Session, seed: int) -> list[Domain]:
        """Returns the one domain, or one for each look.

        Args:
            block: where its images are.
            session: that reads them.
            seed: of the recipe.

        Raises:
            SourceError: images that are missing or cannot be read.
        """
        if self.looks is None:
            dealt = [choose_images(block, session, seed, self.domain_images)]
        else:
            dealt = deal_looks(block, session, seed, self.looks, self.domain_images)
        return [_join(sorted(each, key=lambda pair: pair[1]), block.fit) for each in dealt]


class Inject(Strict):
    """Self-attention of the inversion, in the way back (MUPAD; Tumanyan et al. 2023)."""

    layers: tuple[Text, ...] = Field(
        ("*",), min_length=1, description="self-attention layers by name, * for any letters"
    )
    share: PositiveFraction = Field(0.5, description="of the steps, from the first")


def choose_images(
    block: BlockImages, session: Session, seed: int, shots: int | None
) -> list[Chosen]:
    """Returns images by seed with the hashes of their bytes, equal ones once.

    Raises:
        SourceError: images that are missing or cannot be read.
    """
    found, listed = rank_images(block, session, seed), len(block.list(session))
    if len(found) < listed:
        tell(
            f"{session.resolve(block.path)}: {listed - len(found):,} images repeat others, byte by "
            "byte: each counts once"
        )
    return found[:shots]


def _join(found: Sequence[Chosen], fit: str) -> Domain:
    images, hashes = tuple(image for image, _ in found), tuple(sha256 for _, sha256 in found)
    groups = {each for each in read_groups(images) if each is not None}
    return Domain(images, hashes, fit, tuple(sorted(groups)))


def check_images(findings: Findings, block: BlockImages, place: FieldPath) -> tuple[str, ...]:
    """Returns the classes of images; notes those that are missing or too small."""
    session = findings.loaded.session
    try:
        images = block.list(session)
        if findings.pixels is not None:
            root, read_size = session.resolve(block.path), session.images.read_size
            check_fit(images, *findings.pixels, block.fit, root, read_size)
    except SourceError as error:
        findings.add(place, str(error))
        return ()
    return tuple(dict.fromkeys(each.class_name for each in images if each.class_name))
