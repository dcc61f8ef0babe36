"""Layout conditions: images of masks that are drawn as real ones lie, as many as wanted."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.catalog.licences.terms import SOURCE_SHAPES, Term
from factory.core.errors import CatalogError, SourceError
from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.layouts import DrawnMask, Layout, read_layout
from factory.data.records import Condition, Request
from factory.data.streams import Caption, ClassName, Control
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    PerClass,
    Planning,
    expand_per_class,
)
from factory.recipe.conditions.mask import find_unknown_names
from factory.recipe.conditions.series import OneClass

ALL = "all"
"""The pattern of a layout without classes."""


@dataclass(frozen=True)
class LayoutSeries(OneClass):
    """The layouts of one pattern, from the first on; each has its images, one after the other."""

    layout: Layout
    pattern: str
    seed: int
    zoom: float
    caption: str | None
    per_layout: int
    count: int

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: what its layouts are drawn from."""
        content = {
            "kind": "layout",
            "layout": self.layout.sha256,
            "pattern": self.pattern,
            "zoom": self.zoom,
            "caption": self.caption,
            "per_layout": self.per_layout,
        }
        return compute_digest("series", content)[:16]

    @property
    def class_name(self) -> str | None:  # type: ignore[override]
        """The class, if it has one."""
        return None if self.pattern == ALL else self.pattern

    @property
    def label(self) -> str:
        """The class or that there is none, and the layout's name."""
        return f"{self.pattern} (layouts of {self.layout.name})"

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        number, ordinal = divmod(index, self.per_layout)
        source = DrawnMask(self.layout, self.pattern, self.seed, number, self.zoom)
        control = Control(source, self.layout.ids, True)
        return Request(self.key, index, Condition(self.class_name, self.caption, control), ordinal)


class LayoutConditions(ConditionKind):
    """Images of masks that are drawn, one of its own for each image."""

    streams = (Control, ClassName, Caption)

    class Settings(ConditionSettings):
        """Images of masks that are drawn as those lie that a layout was fitted to."""

        kind: Literal["layout"]
        layout: str = Field(
            min_length=1, description="catalog id, or file that `factory train layout` wrote"
        )
        per_class: PerClass = Field(description="accepted images: one number, or class -> number")
        per_layout: Count = Field(1, description="images of each mask")
        zoom: float = Field(
            1.0,
            gt=0,
            le=16,
            description="px of the image for each px of the masks fitted to",
        )
        caption: str | None = Field(None, description="prompt for text models, with {class_name}")

    settings: Settings

    def build_series(self, planning: Planning) -> list[LayoutSeries]:
        """Returns one series for each class.

        Raises:
            SourceError: no layout there.
            CatalogError: neither a file nor a catalog id.
        """
        settings = self.settings
        layout = self._open(planning.session)
        counts = expand_per_class(settings.per_class, tuple(layout.patterns))
        return [
            LayoutSeries(
                layout,
                name,
                planning.seed,
                settings.zoom,
                settings.caption.format(class_name=name) if settings.caption else None,
                settings.per_layout,
                count,
            )
            for name, count in counts.items()
        ]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes a layout that is missing, classes that it lacks, and names that the model lacks."""
        settings, model = self.settings, findings.model
        findings.check_prompt(settings.caption, (*path, "caption"))
        place: FieldPath = (*path, "per_class")
        is_keyed = not isinstance(settings.per_class, int)
        names = tuple(settings.per_class) if isinstance(settings.per_class, dict) else ()
        if findings.check_files or "/" not in settings.layout:
            try:
                layout = self._open(findings.loaded.session)
            except (SourceError, CatalogError) as error:
                findings.add((*path, "layout"), str(error))
            else:
                known = tuple(layout.patterns)
                findings.check_names(names, known, place, f"layout {layout.name}")
                names = names or known
                entry = None if model is None else model.entry
                for _, misfit in find_unknown_names(layout.ids, entry):
                    findings.add((*path, "layout"), misfit)
        asked = tuple(name for name in names if name != ALL)
        findings.asked.add(asked, place, keyed=is_keyed)
        return [("layout", settings.layout, "of class", name) for name in names or ("",)]

    def list_terms(self, source: Mapping[str, Any] | None, session: Session) -> tuple[Term, ...]:
        """Returns the terms of the masks that the outlines were taken from."""
        try:
            layout = self._open(session)
        except (SourceError, CatalogError):  # `check` says so
            return (Term(SOURCE_SHAPES, self.settings.layout, None),)
        return (Term(SOURCE_SHAPES, layout.name, layout.licence),)

    def list_marks(self, session: Session) -> Sequence[str]:
        """Returns the names of the layout's palette."""
        try:
            return tuple(name for _, name in self._open(session).ids)
        except (SourceError, CatalogError):  # `check` says so
            return ()

    def list_fitted(self, session: Session) -> Sequence[Path]:
        """Returns the file of the layout; raises CatalogError for neither a file nor an id."""
        return (self._find(session),)

    def _find(self, session: Session) -> Path:
        name = self.settings.layout
        path = session.resolve(name)
        if path.is_file() or "/" in name or name.endswith(".json"):
            return path
        return session.catalogs.find_layout(name)

    def _open(self, session: Session) -> Layout:
        """Returns the layout: of a file, else of a catalog.

        Raises:
            SourceError: a file that is none.
            CatalogError: neither a file nor a catalog id.
        """
        return read_layout(self._find(session))
