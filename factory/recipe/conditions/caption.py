"""Caption conditions: images of a catalog grid's captions, or of a file's."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.catalog.captions.file import read_captions
from factory.catalog.captions.grid import list_phrases
from factory.catalog.captions.weights import Given, Weights
from factory.catalog.catalog import Catalogs
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.family import LOOKS
from factory.data.records import Condition, Request
from factory.data.streams import Caption, ClassName
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    Planning,
)
from factory.recipe.conditions.family import PLAIN
from factory.recipe.conditions.grids import open_grid
from factory.recipe.conditions.series import Series


@dataclass(frozen=True)
class ListSeries:
    """Captions of a file in file order, then again with the next ordinals.

    A caption that stands in the file several times gets an ordinal for each time, so that equal
    captions give different images.
    """

    name: str
    captions: tuple[str, ...]
    classes: tuple[str | None, ...]
    count: int

    def __post_init__(self) -> None:
        seen: Counter[tuple[str, str | None]] = Counter()
        ranks = []
        for entry in zip(self.captions, self.classes, strict=True):
            ranks.append(seen[entry])
            seen[entry] += 1
        content = [self.captions, self.classes]
        object.__setattr__(self, "_ranks", tuple(ranks))
        object.__setattr__(self, "_repeats", seen)
        digest = compute_digest("series", {"kind": "caption", "list": content})
        object.__setattr__(self, "_key", digest[:16])

    @property
    def key(self) -> str:
        """Identity of the series: the captions and classes in order."""
        return str(self._key)  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The file's name."""
        return f"captions {self.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the file, in order of appearance."""
        return tuple(dict.fromkeys(name for name in self.classes if name is not None))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.captions))
        entry = (self.captions[row], self.classes[row])
        ordinal = cycle * self._repeats[entry] + self._ranks[row]  # type: ignore[attr-defined]
        return Request(self.key, index, Condition(entry[1], entry[0]), ordinal)


class CaptionConditions(ConditionKind):
    """Images of captions: a catalog grid, or a file with captions."""

    streams = (Caption, ClassName)

    class Settings(ConditionSettings):
        kind: Literal["caption"]
        captions: str = Field(
            min_length=1, description="catalog id, or file (jsonl, csv, tsv, parquet, txt)"
        )
        column: str = Field("caption", description="column of the file that holds the caption")
        class_column: str | None = Field(None, description="column that holds a class name, if any")
        weights: Weights | None = Field(
            None, description="of a grid: attribute -> value -> how often it is asked for"
        )
        given: Given | None = Field(
            None, description="of a grid: attribute -> other attribute -> its value -> weights"
        )
        count: Count = Field(description="accepted images over all captions")

    settings: Settings

    @property
    def has_class(self) -> bool:
        """Whether the file names classes."""
        return self.settings.class_column is not None

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns the one series of a grid, or of a file.

        Raises:
            SourceError: captions that cannot be read.
            CatalogError: neither a file nor a catalog id.
            InputError: no template of a grid says all that is to vary.
        """
        settings, path = self.settings, planning.base / self.settings.captions
        if path.is_file():
            captions, classes = read_captions(path, settings.column, settings.class_column)
            return [ListSeries(path.name, captions, classes, settings.count)]
        grid = planning.catalogs.find_captions(settings.captions)
        if settings.weights or settings.given:
            grid = grid.reweigh(settings.weights or {}, settings.given or {})
        varied = [name for name in settings.vary or () if name not in (*PLAIN, *LOOKS)]
        if varied:
            grid = grid.keep_naming(varied)
        return [open_grid(grid, planning.seed, settings.count)]

    def list_phrases(self, catalogs: Catalogs) -> Sequence[str]:
        """Returns the wordings of a grid.

        Raises:
            CatalogError: no grid of that id.
        """
        name = self.settings.captions
        return (
            list_phrases(catalogs.find_captions(name))
            if name in catalogs.list_ids("captions")
            else ()
        )

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes captions that are missing, and a model that wants classes."""
        settings, model = self.settings, findings.model
        place: FieldPath = (*path, "captions")
        takes = model is not None and model.streams is not None and "caption" in model.streams
        if model is not None and takes and "class_name" in model.required:
            findings.add((*path, "kind"), f"{model.name} needs a class: use kind: class")
        file = findings.resolve(settings.captions)
        is_file = file.is_file() or _looks_like_file(settings.captions)
        for name in ("weights", "given") if is_file else ():
            if getattr(settings, name) is not None:
                findings.add((*path, name), "is for grids, not for caption files: remove it")
        if file.is_file():
            self._check_file(findings, file, path)
        elif is_file:
            if findings.check_files:
                message = f"no such file {str(file)!r}: give a caption file or a catalog id"
                findings.add(place, message)
        else:
            self._check_grid(findings, path)
        return [("captions", settings.captions, settings.column)]

    def _check_grid(self, findings: Findings, path: FieldPath) -> None:
        settings, place = self.settings, (*path, "captions")
        if settings.class_column is not None:
            message = "is for caption files, not for grids: remove it"
            findings.add((*path, "class_column"), message)
        grid = findings.look_up(place, findings.catalogs.find_captions, settings.captions)
        if grid is None:
            return
        if grid.class_attribute is not None:
            findings.asked.add(tuple(grid.attributes[grid.class_attribute]), place)
        for at, message in grid.find_faults(settings.weights or {}, settings.given or {}):
            findings.add((*path, *at), message)

    def _check_file(self, findings: Findings, file: Path, path: FieldPath) -> None:
        if not findings.check_files:
            return
        try:
            _, classes = read_captions(file, self.settings.column, self.settings.class_column)
        except SourceError as error:
            findings.add((*path, "captions"), str(error))
            return
        names = tuple(dict.fromkeys(name for name in classes if name))
        findings.asked.add(names, (*path, "class_column"))


def _looks_like_file(text: str) -> bool:
    return "/" in text or re.search(r"\.(jsonl|ndjson|json|csv|tsv|parquet|txt)$", text) is not None
