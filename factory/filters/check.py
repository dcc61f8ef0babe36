"""What a filter's `check` is given: where to note problems, and what the recipe asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.catalog.checker import Checker
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage


@dataclass(frozen=True, slots=True)
class UsedImages:
    """Real images that a part of the recipe uses.

    Attributes:
        name: the part, e.g. `conditions[0]`.
        list: returns those that are used; raises SourceError.
        columns: `group_column` and `group_pattern` that tell their patients.
    """

    name: str
    list: Callable[[], Sequence[SourceImage]]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FilterCheck:
    """Notes problems of one filter of a recipe.

    Attributes:
        checker: catalogs, the images' size, the classes asked for, and all problems so far.
        place: the filter in the recipe.
        varied: real images that conditions vary.
        judged_with: real images that the other filters compare with.
        has_captions: whether any condition may have a caption.
        streams: names of those that conditions may hold.
        channels: names of those that the model makes beside RGB; None: not known.
        marks: for each block whose masks are known, the names of what they may mark.
    """

    checker: Checker
    place: FieldPath
    varied: tuple[UsedImages, ...] = ()
    judged_with: tuple[UsedImages, ...] = ()
    has_captions: bool = True
    streams: frozenset[str] = frozenset()
    marks: tuple[tuple[str, ...], ...] = ()
    channels: tuple[str, ...] | None = None

    @property
    def check_files(self) -> bool:
        """Whether to look at the user's own files, too."""
        return self.checker.check_files

    def at(self, *fields: str | int) -> FieldPath:
        """Returns a field of the filter as a field of the recipe; the filter itself for none."""
        return (*self.place, *fields)

    def add(self, message: str, *fields: str | int) -> None:
        """Notes a problem at a field of the filter, or of the filter as a whole."""
        self.checker.add(self.at(*fields), message)
