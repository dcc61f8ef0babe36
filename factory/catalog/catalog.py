"""Catalogs: YAML on models, encoders, classifiers, classes and caption grids, and their lookup."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import factory
from factory.catalog.captions.grid import ID_PATTERN, CaptionGrid, caption_at, count_captions
from factory.catalog.entries import (
    Adapter,
    ClassEntry,
    ClassesEntry,
    ClassifierEntry,
    Component,
    EncoderEntry,
    LicenceTerms,
    ModelEntry,
    PathwaysEntry,
    Stream,
)
from factory.catalog.stains import StainsEntry
from factory.catalog.terms import TermsEntry
from factory.catalog.words import WordsEntry
from factory.core.errors import CatalogError, Problem, RecipeError
from factory.core.yaml.messages import advise
from factory.core.yaml.model import Document, parse_model, read_document
from factory.core.yaml.reader import FieldPath

__all__ = [
    "Adapter",
    "CaptionGrid",
    "Catalogs",
    "ClassEntry",
    "ClassesEntry",
    "ClassifierEntry",
    "Component",
    "EncoderEntry",
    "LicenceTerms",
    "ModelEntry",
    "PathwaysEntry",
    "StainsEntry",
    "Stream",
    "caption_at",
    "count_captions",
    "find_shipped_folder",
    "is_catalog",
    "load_catalogs",
]

EntryT = TypeVar(
    "EntryT",
    bound=ModelEntry
    | EncoderEntry
    | ClassesEntry
    | CaptionGrid
    | ClassifierEntry
    | PathwaysEntry
    | StainsEntry
    | TermsEntry
    | WordsEntry,
)

_KINDS: dict[type[BaseModel], str] = {
    ModelEntry: "models",
    EncoderEntry: "encoders",
    ClassesEntry: "classes",
    CaptionGrid: "captions",
    ClassifierEntry: "classifiers",
    PathwaysEntry: "pathways",
    StainsEntry: "stains",
    TermsEntry: "terms",
    WordsEntry: "words",
}
LAYOUTS = "layouts"
"""The folder of layouts, which are no YAML: `factory train layout` writes them."""


def _look_for(entry_class: type[EntryT]) -> "Callable[[Catalogs, str], EntryT]":
    """Returns a method that looks an entry up."""

    def find(self: "Catalogs", name: str) -> EntryT:
        """Returns an entry by its id.

        Raises:
            CatalogError: no such id; names the nearest.
            RecipeError: its file is wrong.
        """
        return self._find(entry_class, name)

    return find


class Catalogs:
    """Catalog folders, the first one first; an entry `x` is `<folder>/<kind>/x.yaml`.

    Only the files that are asked for are read. Local sources come back as absolute paths, so the
    identity of an entry is its id, never its source.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._entries: dict[Path, Any] = {}
        self._documents: dict[tuple[str, str], Document] = {}

    find_model = _look_for(ModelEntry)
    """Returns a generative model."""
    find_encoder = _look_for(EncoderEntry)
    """Returns an image encoder."""
    find_classes = _look_for(ClassesEntry)
    """Returns a set of classes."""
    find_captions = _look_for(CaptionGrid)
    """Returns a caption grid."""
    find_terms = _look_for(TermsEntry)
    """Returns phrases and their concepts."""
    find_words = _look_for(WordsEntry)
    """Returns what is said of images."""
    find_classifier = _look_for(ClassifierEntry)
    """Returns a classifier."""
    find_pathways = _look_for(PathwaysEntry)
    """Returns a collection of gene sets."""
    find_stains = _look_for(StainsEntry)
    """Returns stains of real slides."""

    def find_classifier_folder(self, name: str) -> Path | None:
        """Returns the folder of a classifier by id, or None where no catalog has it.

        Raises:
            RecipeError: its file is wrong.
        """
        if name not in self.list_ids("classifiers"):
            return None
        return Path(self.find_classifier(name).source)

    def get_encoder(self, name: str) -> EncoderEntry | None:
        """Returns an image encoder by id, or None where no catalog has it.

        Raises:
            RecipeError: its file is wrong.
        """
        return self.find_encoder(name) if name in self.list_ids("encoders") else None

    def find_layout(self, name: str) -> Path:
        """Returns the file of a layout, `<folder>/layouts/NAME.json`.

        Raises:
            CatalogError: no catalog has it.
        """
        found = {
            path.stem: path
            for root in reversed(self.folders)
            for path in sorted((root / LAYOUTS).glob("*.json"))
        }
        if name not in found:
            raise CatalogError(f"no layout {name!r}: {advise(name, tuple(found), 30)}")
        return found[name]

    def list_ids(self, kind: str) -> tuple[str, ...]:
        """Returns the ids of a kind: `models`, `encoders`, `classes`, `pathways` and the like."""
        return tuple(
            sorted({path.stem for root in self.folders for path in (root / kind).glob("*.yaml")})
        )

    def list_models(self) -> tuple[ModelEntry, ...]:
        """Returns every model, sorted by id.

        Raises:
            RecipeError: a file is wrong.
        """
        return tuple(self.find_model(name) for name in self.list_ids("models"))

    def get_model(self, name: str) -> ModelEntry | None:
        """Returns a model by id or Hub id, or None where no catalog describes it.

        Raises:
            RecipeError: a file is wrong.
        """
        if name in self.list_ids("models"):
            return self.find_model(name)
        return self.find_model_of_source(name)

    def find_model_of_source(self, source: str) -> ModelEntry | None:
        """Returns the model whose weights are at a Hub id, or None where none is.

        An entry that adapts another one is found by its id only.

        Raises:
            RecipeError: a file is wrong.
        """
        plain = (entry for entry in self.list_models() if entry.base is None and not entry.adapters)
        return next((entry for entry in plain if entry.source == source), None)

    def make_problem(self, entry: BaseModel, path: FieldPath, message: str) -> Problem:
        """Builds a problem at a field of an entry's file."""
        key = (_KINDS[type(entry)], str(getattr(entry, "id")))  # noqa: B009
        return self._documents[key].make_problem(path, message)

    def __getstate__(self) -> tuple[Any, ...]:
        entries = {path.absolute(): entry for path, entry in self._entries.items()}
        folders = tuple(folder.absolute() for folder in self.folders)
        return find_shipped_folder("catalogs"), folders, entries, self._documents

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes what was read elsewhere; the shipped catalogs are those of this installation."""
        shipped, folders, entries, self._documents = state
        here = find_shipped_folder("catalogs")
        self.folders = tuple(here if each == shipped else each for each in folders)
        self._entries = {
            path: entry
            for path, entry in entries.items()
            if here == shipped or not path.is_relative_to(shipped)
        }

    def _find(self, entry_class: type[EntryT], name: str, adapted: tuple[str, ...] = ()) -> EntryT:
        kind = _KINDS[entry_class]
        for folder in self.folders:
            path = folder / kind / f"{name}.yaml"
            if re.fullmatch(ID_PATTERN, name) and path.is_file():
                if path not in self._entries:
                    self._entries[path] = self._read_entry(path, entry_class, (*adapted, name))
                found: EntryT = self._entries[path]
                return found
        raise CatalogError(f"no entry {name!r} in {kind}: {advise(name, self.list_ids(kind), 30)}")

    def _read_entry(self, path: Path, entry_class: type[EntryT], names: tuple[str, ...]) -> EntryT:
        """Reads a file; `names` are the entries on the way to it, each the base of the one before.

        Raises:
            RecipeError: a problem of the file, or of the entries that it builds on.
        """
        document, base = read_document(path), None
        if "base" in entry_class.model_fields and isinstance(document.data.get("base"), str):
            base = self._find_base(document, entry_class, names)
            own = {"adapters", "status"}
            known = base.model_dump(mode="json", exclude_unset=True, exclude=own)
            document = dataclasses.replace(document, data={**known, **document.data})
        entry: Any = parse_model(document, entry_class)
        self._documents[_KINDS[entry_class], entry.id] = document
        if entry.id != path.stem:
            message = f"must be the file's name {path.stem!r}, got {entry.id!r}"
            raise RecipeError((document.make_problem(("id",), message),))
        if isinstance(entry, ModelEntry):
            adapters = [*base.adapters] if isinstance(base, ModelEntry) else []
            for each in entry.adapters:
                source = _resolve_source(path, each.source)
                adapters.append(each.model_copy(update={"source": source}))
            source = _resolve_source(path, entry.source)
            entry = entry.model_copy(update={"source": source, "adapters": tuple(adapters)})
        elif isinstance(entry, EncoderEntry):
            entry = entry.model_copy(update={"source": _resolve_source(path, entry.source)})
        elif isinstance(entry, ClassifierEntry | PathwaysEntry):
            source = str((path.parent / entry.source).resolve())
            entry = entry.model_copy(update={"source": source})
        found: EntryT = entry
        return found

    def _find_base(
        self, document: Document, entry_class: type[EntryT], names: tuple[str, ...]
    ) -> EntryT:
        name = document.data["base"]
        if name in names:
            message = f"goes in a circle ({' -> '.join((*names, name))}): name another entry"
            raise RecipeError((document.make_problem(("base",), message),))
        try:
            return self._find(entry_class, name, names)
        except CatalogError as error:
            message = f"{error}; or name the catalog folder that holds it too"
            raise RecipeError((document.make_problem(("base",), message),)) from error


def _resolve_source(path: Path, source: str) -> str:
    """Returns a folder, seen from the catalog file, as an absolute path; a Hub id as it is.

    A folder may stand behind the kind of an encoder, `flow:..`.
    """
    kind, colon, name = source.rpartition(":")
    if colon and name.startswith("."):
        return f"{kind}:{(path.parent / name).resolve()}"
    folder = (path.parent / source).resolve()
    return str(folder) if source.startswith((".", "/")) or folder.is_dir() else source


def load_catalogs(folders: Sequence[Path] = ()) -> Catalogs:
    """Opens user catalog folders, searched in order, and the shipped catalogs behind them.

    Raises:
        CatalogError: a folder that is missing or holds no kind of entry.
    """
    for folder in folders:
        if not folder.is_dir():
            raise CatalogError(f"{folder}: no such catalog folder: correct the path")
        if not is_catalog(folder):
            kinds = ", ".join(_KINDS.values())
            raise CatalogError(f"{folder}: no catalog: make one of the folders {kinds}")
    return Catalogs((*folders, find_shipped_folder("catalogs")))


def is_catalog(folder: Path) -> bool:
    """Whether a folder holds a kind of entry."""
    return any((folder / kind).is_dir() for kind in (*_KINDS.values(), LAYOUTS))


def find_shipped_folder(name: str) -> Path:
    """Returns the `catalogs` or `recipes` that came with factory.

    In an installed wheel they lie inside the package, in a checkout beside it.

    Raises:
        CatalogError: a broken installation that lacks them.
    """
    package = Path(factory.__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise CatalogError(f"{package / name}: the shipped {name} are missing: install factory again")
