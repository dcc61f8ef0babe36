"""`python`: a filter of one's own, from a Python file beside the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from factory.catalog.licences.terms import Term
from factory.core.errors import PluginError, Problem, RecipeError
from factory.core.late import NDArray, np
from factory.core.registry import load_from_file
from factory.core.yaml.fields import FieldType
from factory.core.yaml.messages import write_message
from factory.core.yaml.reader import format_path
from factory.data.records import Condition, Sample
from factory.filters.base import Filter, FilterSettings, Near, RealImages, Score, Scores
from factory.filters.check import FilterCheck
from factory.models.session import Session


class PythonFilter(Filter):
    """Scores by a class of the file, which inherits from `factory.filters.base.Filter`.

    Its settings stand beside `path` and `class_name`, and verdicts, `accept` and `--set` call the
    filter by the class. The file runs only where a recipe file names it: what a run folder or a
    published data set records of it (settings, scores, the sha256 of its source) is enough to
    decide, and never runs it. The sha256 is part of the fingerprint: a run does not go on with
    another source.
    """

    class Settings(FilterSettings):
        model_config = ConfigDict(extra="allow")

        kind: Literal["python"]
        path: Path = Field(description="Python file")
        class_name: str = Field(pattern=r"^[A-Za-z_]\w*$", description="class in it")
        source_sha256: str | None = Field(
            None, description="of the file: written when the recipe is read, or to be kept to"
        )
        scores: tuple[Score, ...] = Field((), description="written when the recipe is read")
        declared: dict[str, bool | str] | None = Field(
            None, description="what else the class declares, e.g. needs_class: written likewise"
        )

        _may_run: bool = PrivateAttr(False)

        @property
        def name(self) -> str:
            """The class."""
            return self.class_name

        def summarise(self) -> dict[str, Any]:
            """Returns the class's settings, under its name, and where they come from."""
            source = {"path": self.path.name, "source_sha256": self.source_sha256}
            return {"kind": self.name, **self.extra, **source, **(self.declared or {})}

        def change(self, values: Mapping[str, Any]) -> Self:
            """Returns the settings with other values, as the class holds them where it may run.

            Raises:
                ValidationError: a field of the class does not take its value.
            """
            changed = super().change(values)
            if self._may_run:
                changed._may_run = True
                found, _ = changed.load()
                own = found.Settings.model_validate({**changed._select(found), "kind": found.kind})
                changed = changed.model_copy(update={name: getattr(own, name) for name in values})
            return changed

        def load(self) -> tuple[type[Filter], str]:
            """Runs the file; returns the class and the sha256 of the source.

            Raises:
                SourceError: it cannot be read.
                PluginError: it fails, was changed, or no recipe file names it.
            """
            if not self._may_run:
                raise PluginError(f"{self.name}: runs only where a recipe file names it")
            found, digest = load_from_file(
                self.path,
                self.class_name,
                Filter,  # type: ignore[type-abstract]
            )
            if self.source_sha256 not in (None, digest):
                wanted = f"source_sha256 is {self.source_sha256}, the file has {digest}"
                raise PluginError(f"{self.path}: was changed: {wanted}")
            return found, digest

        def build_own(self, found: type[Filter]) -> FilterSettings:
            """Returns the settings that the class takes.

            Raises:
                RecipeError: it refuses them, by field.
            """
            given = {**self._select(found), "kind": found.kind}
            try:
                return found.Settings.model_validate_json(json.dumps(given), strict=True)
            except ValidationError as error:
                raise RecipeError(tuple(_describe(found, error))) from error

        def _select(self, found: type[Filter]) -> dict[str, Any]:
            """Returns the values of the class's settings, and those that it may not know."""
            known = {*found.Settings.model_fields, *self.extra}
            return {name: value for name, value in self if name in known}

        @property
        def extra(self) -> Mapping[str, Any]:
            """The class's settings, as the recipe has them."""
            return self.model_extra or {}

        def settle(self, base: Path) -> Self:
            """Returns the settings with the class's defaults, scores and source; runs the file.

            Raises:
                SourceError: the file cannot be read.
                PluginError: it fails, or has no such filter.
                RecipeError: the class refuses its settings.
            """
            asked = self.model_copy(update={"path": (base / self.path.expanduser()).absolute()})
            asked._may_run = True
            found, digest = asked.load()
            taken = sorted(found.Settings.model_fields.keys() & _OWN_FIELDS)
            if taken:
                raise PluginError(f"{asked.path}: rename the settings {', '.join(taken)}")
            values = asked.build_own(found).model_dump(mode="json", exclude={"kind"})
            said = {name: getattr(found, name) for name in _DECLARED}
            declared = {name: value for name, value in said.items() if value} or None
            settled = {"scores": found.scores, "source_sha256": digest, "declared": declared}
            return asked.model_copy(update={**values, **settled})

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self.scores = settings.scores
        for name, value in (settings.declared or {}).items():
            setattr(self, name, value)

    @cached_property
    def own(self) -> Filter:
        """The filter of the file.

        Raises:
            SourceError: the file cannot be read.
            PluginError: it fails, was changed, or no recipe file names it.
        """
        found, _ = self.settings.load()
        return found(self.settings.build_own(found), self.context)

    @property
    def may_run(self) -> bool:
        """Whether a recipe file names it, so that it may be asked."""
        return self.settings._may_run

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns what the class scores.

        Raises:
            SourceError: the file cannot be read.
            PluginError: it fails, was changed, or no recipe file names it.
            FilterError: scoring failed.
        """
        return self.own.score(samples, conditions)

    def check(self, check: FilterCheck) -> None:
        """Notes what the class notes."""
        self.own.check(check)

    def terms(self) -> tuple[Term, ...]:
        """Returns the class's terms."""
        return self.own.terms() if self.may_run else ()

    @property
    def encoders(self) -> tuple[str, ...]:
        """Those of the class."""
        return self.own.encoders if self.may_run else ()

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Those of the class."""
        return self.own.classifiers if self.may_run else ()

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """Those of the class."""
        return self.own.real_images if self.may_run else ()

    def find_nearest(self, pixels: NDArray[np.uint8]) -> Near:
        """Returns what the class finds.

        Raises:
            FactoryError: as the class says, or as `score` for the file.
        """
        return self.own.find_nearest(pixels)

    def describe(self) -> dict[str, Any]:
        """Returns what the class tells, under its name, and the sha256 of its source."""
        settings = self.settings
        source = {"path": settings.path.name, "source_sha256": settings.source_sha256}
        return {**self.own.describe(), "kind": self.name, **source}


_DECLARED = ("needs_class", "needs_caption", "likeness", "nearness")
_OWN_FIELDS = PythonFilter.Settings.model_fields.keys() - {"kind"}


def _describe(found: type[Filter], error: ValidationError) -> Iterator[Problem]:
    """Yields the problems of settings, each with its field."""
    for details in error.errors(include_url=False):
        path, _, kind = FieldType(found.Settings).follow(details["loc"])
        yield Problem(format_path(path), write_message(kind, details))
