"""Existing images: made by something else, or real, to be judged as they are."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage
from factory.data.records import Condition, Request
from factory.data.streams import Caption, ClassName, Existing
from factory.filters import build_filters
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    ConditionKind,
    Identity,
    ImageSettings,
    Planning,
)
from factory.recipe.conditions.series import OneClass

OLD_KIND = "given"
"""The kind's word in recipes of earlier versions, and in keys and fingerprints ever since."""


@dataclass(frozen=True)
class ExistingSeries(OneClass):
    """The images of one class, one request each; their order is that of their names.

    `content_sha256` tells sets of the same names apart, where the whole set was read before.
    """

    class_name: str | None
    images: tuple[SourceImage, ...]
    count: int
    content_sha256: str | None = None
    origin = "(existing)"

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: the names of its images, and their content where known."""
        names = [image.key for image in self.images]
        content = {"kind": OLD_KIND, "class": self.class_name, "names": names}
        if self.content_sha256 is not None:
            content["content_sha256"] = self.content_sha256
        return compute_digest("series", content)[:16]

    def request_at(self, index: int) -> Request:
        """Returns the request of the `index`-th image."""
        image = self.images[index]
        condition = Condition(self.class_name, image.caption, Existing(image))
        return Request(self.key, index, condition, 0)


class ExistingConditions(ConditionKind):
    """Images made elsewhere, or real ones, to be judged as they are (`factory judge`)."""

    kind = "existing"
    streams = (Existing, ClassName, Caption)

    class Settings(ImageSettings):
        kind: Annotated[
            Literal["existing", "given"],
            AfterValidator(lambda kind: "existing"),
            WithJsonSchema({"const": "existing", "type": "string"}),
        ]
        label_column: str | None = Field(None, description="column with the class")
        caption_column: str | None = Field(None, description="column with the caption")
        content_sha256: str | None = Field(
            None, description="of all images and captions, written by factory judge"
        )

    settings: Settings

    @property
    def images(self) -> BlockImages:
        """The images."""
        return self.settings.block

    @property
    def has_caption(self) -> bool:
        """True: each image may come with one."""
        return True

    def describe_content(self) -> dict[str, Any]:
        """Returns its settings by its old word, so that fingerprints stay as they were."""
        return {**super().describe_content(), "kind": OLD_KIND}

    def build_series(self, planning: Planning) -> list[ExistingSeries]:
        """Returns one series for each class.

        Raises:
            SourceError: nothing there, or a column that is missing.
        """
        by_class: dict[str, list[SourceImage]] = {}
        for image in self.images.list(planning.session):
            by_class.setdefault(image.class_name or "", []).append(image)
        return [
            ExistingSeries(name or None, tuple(images), len(images), self.settings.content_sha256)
            for name, images in sorted(by_class.items())
        ]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing, and what cannot be judged of them."""
        place: FieldPath = (*path, "images")
        if self.images.check_groups(findings, path) and findings.check_files:
            try:
                images = self.images.list(findings.loaded.session)
            except SourceError as error:
                findings.add(place, str(error))
            else:
                names = dict.fromkeys(image.class_name for image in images)
                findings.asked.add(tuple(name for name in names if name), place)
                _check_known_of(findings, images, place)
        if findings.loaded.recipe.budget.attempts != 1:
            findings.add(("budget", "attempts"), "existing images are judged once: set it to 1")
        return [("images", str(self.settings.images))]


def _check_known_of(findings: Findings, images: Sequence[SourceImage], path: FieldPath) -> None:
    """Notes filters that would accept every image, as none has the class or caption they need."""
    recipe = findings.loaded.recipe
    for judge in build_filters(recipe.filters, findings.loaded.session):
        kind = judge.name
        if judge.needs_class and not any(image.class_name for image in images):
            message = f"no image has a class, which filter {kind} needs: sort them into folders"
            findings.add(path, f"{message} by class, or set label_column")
        if judge.needs_caption and not any(image.caption for image in images):
            message = f"no image has a caption, which filter {kind} needs: set caption_column"
            findings.add(path, message)
