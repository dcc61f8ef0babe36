"""What a condition kind is: settings, check and terms of a block, and the series that it makes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from factory.catalog.catalog import Catalogs
from factory.catalog.entries import ClassName, Strict
from factory.catalog.licences.terms import Term, drop_repeated
from factory.core.registry import name_kind
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage
from factory.data.images.fields import NamedImages
from factory.data.streams import Caption, Stream
from factory.models.session import Session
from factory.recipe.conditions.family import Vary
from factory.recipe.conditions.series import Series

if TYPE_CHECKING:
    from factory.recipe.checks.findings import Findings

Count = Annotated[int, Field(ge=1, le=10_000_000_000)]
PerClass = Count | dict[ClassName, Count]
Identity = tuple[str, ...]
"""Words that name what a block makes; two blocks must not make the same."""


def expand_per_class(per_class: PerClass, class_names: Sequence[str]) -> dict[str, int]:
    """Returns class -> count for a number (each class) or a mapping (as it is)."""
    if isinstance(per_class, int):
        return dict.fromkeys(class_names, per_class)
    return dict(per_class)


@dataclass(frozen=True, slots=True)
class Planning:
    """What a block is planned with: the recipe's seed and session, the model's classes."""

    seed: int
    session: Session
    model_classes: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """Folder of the recipe, which relative paths start from."""
        return self.session.base

    @property
    def catalogs(self) -> Catalogs:
        """Where classes and captions are looked up."""
        return self.session.catalogs


@dataclass(frozen=True, slots=True)
class BlockImages:
    """Where the real images of a block are, and how they are read and fitted."""

    path: Path
    fit: str = "crop"
    columns: Mapping[str, Any] = field(default_factory=dict)
    """`image_column`, `group_column` and the like: further arguments of `list_images`."""

    def list(self, session: Session) -> tuple[SourceImage, ...]:
        """Lists them.

        Raises:
            SourceError: nothing there, or a column that is missing.
        """
        return session.images.list(session.resolve(self.path), **self.columns)

    def check_groups(self, findings: "Findings", path: FieldPath) -> bool:
        """Whether its group columns make sense; notes what does not, below the block's `path`."""
        pattern, place = self.columns.get("group_pattern"), (*path, "group_pattern")
        if pattern is None:
            return True
        if self.columns.get("group_column") is not None:
            findings.add(place, "either group_column or group_pattern: remove one")
            return False
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            findings.add(place, f"no regular expression ({error}), got {pattern!r}")
            return False
        if groups < 1:
            message = "needs a group in parentheses around the patient or slide"
            findings.add(place, f"{message}, got {pattern!r}")
        return groups >= 1


class ConditionSettings(Strict):
    """What every block of `conditions` says."""

    kind: str
    vary: Vary | None = Field(
        None,
        description="families: what differs between images of one seed -> its values; a stream "
        "(class_name, caption, scale), an attribute of a grid, a value of a vector, a stain (as "
        "catalogs name them) or a domain (folders of real images). Counts are then of families of "
        "each",
    )


class ImageSettings(NamedImages, ConditionSettings):
    """What every block of real images says of them."""

    @property
    def block(self) -> BlockImages:
        """Where they are, and how they are read and fitted."""
        return BlockImages(self.images, getattr(self, "fit", "crop"), self.columns)


class ConditionKind(ABC):
    """A block of `conditions`; a subclass nests its `Settings` and fills two methods.

    Attributes:
        kind: its word in recipes: the one that the `kind` of its own `Settings` may be. These say
            what the class says, where they have no docstring.
        streams: what its conditions may hold; the first is what the kind stands for.
    """

    kind: ClassVar[str]
    streams: ClassVar[tuple[type[Stream], ...]]
    Settings: ClassVar[type[ConditionSettings]] = ConditionSettings
    settings: Any

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def __init_subclass__(cls, **more: Any) -> None:
        """Reads the kind off the settings, where the class has its own."""
        super().__init_subclass__(**more)
        name_kind(cls)

    @abstractmethod
    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns its series of requests.

        Raises:
            SourceError: images or captions that are missing or cannot be read.
            CatalogError: a catalog id that is not known.
        """

    @abstractmethod
    def check(self, findings: "Findings", path: FieldPath) -> Sequence[Identity]:
        """Notes what is wrong, and the classes asked for; returns what the block makes.

        That the model takes the kind's first stream is checked before.
        """

    def advise_lacking(self, name: str) -> tuple[str, str]:
        """Returns the field to change where the model needs a further stream, and how."""
        return "kind", f"take conditions of a kind that gives it, {self.kind} conditions do not"

    def list_phrases(self, catalogs: Catalogs) -> Sequence[str]:
        """Returns the phrases that its images are asked for by, as far as the recipe tells.

        Raises:
            CatalogError: a catalog id that is not known.
        """
        return ()

    def list_marks(self, session: Session) -> Sequence[str]:
        """Returns what masks of its conditions may mark, by name; none where that is not told."""
        return ()

    @property
    def stream(self) -> type[Stream]:
        """What the kind stands for."""
        return self.streams[0]

    @property
    def held(self) -> tuple[type[Stream], ...]:
        """What conditions of this block may hold: columns of a table may add to `streams`."""
        return self.streams

    @property
    def encoders(self) -> tuple[str, ...]:
        """Image encoders that made what its conditions hold: they condition the generator."""
        return ()

    @property
    def is_existing(self) -> bool:
        """Whether its images are there already, so that none is made."""
        return self.stream.is_image

    @property
    def is_caption(self) -> bool:
        """Whether captions are what it asks for."""
        return self.stream is Caption

    @property
    def is_per_class(self) -> bool:
        """Whether it asks for so many images of each class."""
        return "per_class" in self.Settings.model_fields

    @property
    def has_class(self) -> bool:
        """Whether its images are of classes that guidance can lead to."""
        return self.is_per_class

    @property
    def has_caption(self) -> bool:
        """Whether its images may have a caption: its own, or the prompt that its settings give."""
        return self.is_caption or getattr(self.settings, "caption", None) is not None

    @property
    def images(self) -> BlockImages | None:
        """The real images that its own are made from, or are."""
        return None

    @property
    def varied(self) -> BlockImages | None:
        """The real images that its own are made from."""
        return None if self.is_existing else self.images

    @property
    def unlabelled(self) -> Sequence[BlockImages]:
        """Real images beside those whose classes are not read: none of them may be tested on."""
        return ()

    def list_read(self) -> Sequence[BlockImages]:
        """Returns where real images are that rows may be restored from."""
        return () if self.images is None else (self.images,)

    def list_used(self, session: Session, seed: int) -> Sequence[SourceImage]:
        """Returns those of `varied` that are used.

        Raises:
            SourceError: images that are missing or cannot be read.
        """
        return () if self.varied is None else self.varied.list(session)

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of what it is made from; `source` are the card's for real images."""
        found = [term for stream in self.held for term in stream.terms(source)]
        return tuple(drop_repeated(found))

    def list_terms(self, source: Mapping[str, Any] | None, session: Session) -> tuple[Term, ...]:
        """Returns `terms`, and those that stand in files that `session` opens."""
        return self.terms(source)

    def list_fitted(self, session: Session) -> Sequence[Path]:
        """Returns files that were fitted to real images and that its own are made by.

        Raises:
            CatalogError: a catalog id that is not known.
        """
        return ()

    def describe_content(self) -> dict[str, Any]:
        """Returns what of its settings enters the recipe's fingerprint, as plain data."""
        content: dict[str, Any] = self.settings.model_dump(mode="json")
        return content
