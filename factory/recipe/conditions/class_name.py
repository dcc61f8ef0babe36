"""Class conditions: so many images of each named class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.catalog.captions.grid import list_phrases
from factory.catalog.catalog import Catalogs
from factory.catalog.entries import ClassName
from factory.catalog.licences.terms import Term
from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.records import Condition, Request
from factory.data.streams import Caption
from factory.data.streams import ClassName as ClassStream
from factory.models.text_writer import TextWriter, WriterSettings, find_folder
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Identity,
    PerClass,
    Planning,
    expand_per_class,
)
from factory.recipe.conditions.grids import ExpandedSeries, fix_class
from factory.recipe.conditions.series import OneClass, Series
from factory.recipe.conditions.written import TERMS, Expansion, WrittenSeries


@dataclass(frozen=True, slots=True)
class ClassSeries(OneClass):
    """All images of one class."""

    class_name: str
    count: int

    @property
    def key(self) -> str:
        """Identity of the series."""
        return compute_digest("series", {"kind": "class", "class_name": self.class_name})[:16]

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th image of the class."""
        return Request(self.key, index, Condition(class_name=self.class_name), index)


class ClassConditions(ConditionKind):
    """Images of named classes."""

    streams = (ClassStream, Caption)

    class Settings(ConditionSettings):
        kind: Literal["class"]
        per_class: PerClass = Field(description="accepted images: one number, or class -> number")
        classes: str | tuple[ClassName, ...] | None = Field(
            None, description="class names or a catalog id; default: the model's own classes"
        )
        expand: str | Expansion | None = Field(
            None,
            description="caption grid that says of each class what goes with it; or captions "
            "(the grid) and a writer that rewords it",
        )

    settings: Settings

    @property
    def has_caption(self) -> bool:
        """Whether a grid gives the classes captions."""
        return self.grid_name is not None

    @property
    def grid_name(self) -> str | None:
        """The grid that says what goes with the classes."""
        expand = self.settings.expand
        return expand.captions if isinstance(expand, Expansion) else expand

    @property
    def writer(self) -> WriterSettings | None:
        """What rewords captions."""
        expand = self.settings.expand
        return expand.writer if isinstance(expand, Expansion) else None

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns those of a writer: captions of the data set are its words."""
        found, writer = super().terms(source), self.writer
        if writer is None:
            return found
        licence = None if writer.licence is None else writer.licence.model_dump(mode="json")
        name = writer.model if writer.revision else Path(writer.model).name
        return (*found, Term("text writer", name, licence))

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns one series for each class.

        Raises:
            CatalogError: a class list that is not known.
            InputError: a writer that is not here.
        """
        names, classes = planning.model_classes, self.settings.classes
        if isinstance(classes, str):
            entry = planning.catalogs.find_classes(classes)
            names = tuple(each.name for each in entry.classes)
        elif classes is not None:
            names = classes
        counts = expand_per_class(self.settings.per_class, names)
        if self.grid_name is None:
            return [ClassSeries(name, count) for name, count in counts.items()]
        grid = planning.catalogs.find_captions(self.grid_name)
        grids = {name: grid.reweigh(*fix_class(grid, name)) for name in counts}
        if self.writer is None:
            return [
                ExpandedSeries(grids[name], planning.seed, count, name)
                for name, count in counts.items()
            ]
        licence = None if self.writer.licence is None else self.writer.licence.id
        told: dict[str, Any] = {
            "writer": TextWriter(self.writer, planning.base),
            "terms": planning.catalogs.find_terms(TERMS),
            "licence": licence,
        }
        return [
            WrittenSeries(grids[name], planning.seed, count, name, **told)
            for name, count in counts.items()
        ]

    def list_phrases(self, catalogs: Catalogs) -> Sequence[str]:
        """Returns the classes that it names, and the wordings that they expand to.

        Raises:
            CatalogError: no grid of that id.
        """
        per_class, expand = self.settings.per_class, self.grid_name
        names = () if isinstance(per_class, int) else tuple(per_class)
        return (*names, *(list_phrases(catalogs.find_captions(expand)) if expand else ()))

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes classes that neither list nor model know."""
        settings, model, known = self.settings, findings.model, self._find_known(findings, path)
        place: FieldPath = (*path, "per_class")
        if isinstance(settings.per_class, int):
            names = known or ()
            if known is None and settings.classes is None and model is not None:
                message = f"a number needs class names, and the catalog has none for {model.name}"
                findings.add(place, f"{message}: set classes, or write class: count")
            findings.asked.add(names, place)
        else:
            names = tuple(settings.per_class)
            findings.check_names(names, known if settings.classes else None, place, "classes")
            if not names:
                findings.add(place, "names no class: add class: count")
            findings.asked.add(names, place, keyed=True)
        if model is not None and model.class_names == ():
            message = f"{model.name} has learned no classes: ask by caption or reference"
            findings.add((*path, "kind"), f"{message}, or adapt it with factory train adapter")
            return []
        self._check_expansion(findings, path, names)
        listed = settings.classes is not None and isinstance(settings.per_class, int)
        if model is not None and model.class_names is not None:
            where = (*path, "classes") if listed else place
            findings.check_names(names, model.class_names, where, model.name, keyed=not listed)
        how = () if self.grid_name is None else ("in words of", self.grid_name)
        if self.writer is not None:
            how = (*how, "reworded by", self.writer.model)
        return [("class", name, *how) for name in names]

    def _check_expansion(self, findings: Findings, path: FieldPath, names: Sequence[str]) -> None:
        """Notes a grid that is not there, lacks a class, or has nothing to say of it."""
        expand, model, place = self.grid_name, findings.model, (*path, "expand")
        if expand is None:
            return
        if self.writer is not None:
            self._check_writer(findings, self.writer, (*place, "writer"))
            place = (*place, "captions")
        elif isinstance(self.settings.expand, Expansion):
            place = (*place, "captions")
        if model is not None and model.streams is not None and "caption" not in model.streams:
            findings.add(place, f"{model.name} takes no text: remove it")
        grid = findings.look_up(place, findings.catalogs.find_captions, expand)
        if grid is None:
            return
        known = grid.attributes.get(grid.class_attribute or "", {})
        if not known:
            findings.add(place, f"{expand} has no class_attribute: take a grid that has one")
        for name in names if known else ():
            if name not in known:
                message = f"no class {name!r} in {expand}: {advise(name, tuple(known))}"
                findings.add(place, message)
            else:
                for _, message in grid.find_faults(*fix_class(grid, name)):
                    findings.add(place, f"of class {name}: {message}")

    def _check_writer(self, findings: Findings, writer: WriterSettings, path: FieldPath) -> None:
        """Notes a model that is not here, and a template that does not hold the caption."""
        try:
            said = writer.template.format(caption="\x00")
        except (KeyError, IndexError, ValueError):
            said = ""
        if "\x00" not in said:
            message = f"must hold {{caption}} and no other braces, got {writer.template!r}"
            findings.add((*path, "template"), message)
        if findings.check_files:
            try:
                find_folder(writer, findings.base)
            except InputError as error:
                field = "revision" if str(error).startswith("revision") else "model"
                findings.add((*path, field), str(error))

    def _find_known(self, findings: Findings, path: FieldPath) -> tuple[str, ...] | None:
        """Returns the classes of the block, else the model's; None where they are not known."""
        classes, model = self.settings.classes, findings.model
        if isinstance(classes, str):
            find = findings.catalogs.find_classes
            entry = findings.look_up((*path, "classes"), find, classes)
            return None if entry is None else tuple(part.name for part in entry.classes)
        if classes is None:
            return model.class_names if model is not None and model.entry is not None else None
        if len(set(classes)) < len(classes):
            findings.add((*path, "classes"), f"names a class twice, got {', '.join(classes)}")
        return classes
