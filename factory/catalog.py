"""Catalogs: YAML on models, classifiers, classes and caption grids, and their lookup."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from factory.caption_grid import (
    ID_PATTERN,
    CaptionGrid,
    CatalogId,
    caption_at,
    count_captions,
)
from factory.errors import CatalogError, RecipeError
from factory.messages import advise
from factory.yamlfile import parse_model, read_document

__all__ = [
    "CaptionGrid",
    "Catalogs",
    "ClassEntry",
    "ClassesEntry",
    "ClassifierEntry",
    "Component",
    "LicenceTerms",
    "ModelEntry",
    "Stream",
    "caption_at",
    "count_captions",
    "find_shipped_folder",
    "load_catalogs",
]

Stream = Literal["class_name", "caption", "reference", "embedding", "vector", "source", "control"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LicenceTerms(_Strict):
    """Terms of a model as read on a date; None means that the page did not say."""

    id: str = Field(description="licence id as the Hub writes it, e.g. apache-2.0")
    url: str = ""
    date_read: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    commercial_use: bool | None = None
    redistribution_of_outputs: bool | None = None
    training_on_outputs: bool | None = None
    dataset_generation: bool | None = None
    gated: bool = False
    attribution: tuple[str, ...] = ()
    note: str = ""


class Component(_Strict):
    """A further set of weights that a model needs: a VAE or a conditioning encoder."""

    role: Literal["vae", "image_encoder", "text_encoder", "teacher"]
    source: str
    revision: str | None = None
    licence: LicenceTerms


class ModelEntry(_Strict):
    """One generative model, and what it may be asked for."""

    id: CatalogId
    title: str = ""
    source: str = Field(description="Hub id, or a folder relative to the catalog file")
    revision: str | None = None
    family: str = Field(description="pipeline family, a key of factory.generators.families")
    custom_pipeline: str | None = None
    remote_code: bool = Field(
        False, description="allow the model's own code, if the recipe does too"
    )
    required: tuple[Stream, ...] = ()
    optional: tuple[Stream, ...] = ()
    class_names: tuple[str, ...] | None = None
    width: int = Field(ge=8)
    height: int = Field(ge=8)
    mpp: float | None = Field(None, gt=0)
    token_limits: dict[str, int] = {}
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)
    scheduler: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    components: tuple[Component, ...] = ()
    training_data: tuple[str, ...] = ()
    labels_seen: bool | None = Field(None, description="was trained with the labels of that data")
    memory_gb: float | None = None
    licence: LicenceTerms
    pipeline_arguments: dict[str, Any] = Field({}, description="fixed arguments of every call")


class ClassifierEntry(_Strict):
    """A fitted classifier that filters may use."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]*$")
    title: str = ""
    source: str = Field(description="folder relative to the catalog file")
    class_names: tuple[str, ...]
    training_data: tuple[str, ...] = ()
    licence: LicenceTerms


class ClassEntry(_Strict):
    """One class: its name in data, words for prompts."""

    name: str
    title: str
    synonyms: tuple[str, ...] = ()


class ClassesEntry(_Strict):
    """A named set of classes."""

    id: CatalogId
    title: str = ""
    source: str = ""
    classes: tuple[ClassEntry, ...] = Field(min_length=1)


# --- lookup --------------------------------------------------------------------------------------

EntryT = TypeVar("EntryT", bound=ModelEntry | ClassesEntry | CaptionGrid | ClassifierEntry)

_KINDS: dict[type[BaseModel], str] = {
    ModelEntry: "models",
    ClassesEntry: "classes",
    CaptionGrid: "captions",
    ClassifierEntry: "classifiers",
}


class Catalogs:
    """Catalog folders, the first one first; an entry `x` is `<folder>/<kind>/x.yaml`.

    Only the files that are asked for are read. Local sources come back as absolute paths, so the
    identity of an entry is its id, never its source.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._entries: dict[Path, Any] = {}

    def find_model(self, name: str) -> ModelEntry:
        """Returns a generative model.

        Raises:
            CatalogError: no such id; names the nearest.
            RecipeError: its file is wrong.
        """
        return self._find(ModelEntry, name)

    def find_classes(self, name: str) -> ClassesEntry:
        """Returns a set of classes; raises as `find_model` does."""
        return self._find(ClassesEntry, name)

    def find_captions(self, name: str) -> CaptionGrid:
        """Returns a caption grid; raises as `find_model` does."""
        return self._find(CaptionGrid, name)

    def find_classifier(self, name: str) -> ClassifierEntry:
        """Returns a classifier; raises as `find_model` does."""
        return self._find(ClassifierEntry, name)

    def find_classifier_folder(self, name: str) -> Path | None:
        """Returns the folder of a classifier by id, or None where no catalog has it.

        Raises:
            RecipeError: its file is wrong.
        """
        if name not in self.list_ids("classifiers"):
            return None
        return Path(self.find_classifier(name).source)

    def list_ids(self, kind: str) -> tuple[str, ...]:
        """Returns the ids of `models`, `classes`, `captions` or `classifiers`, sorted."""
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

        Raises:
            RecipeError: a file is wrong.
        """
        return next((entry for entry in self.list_models() if entry.source == source), None)

    def _find(self, entry_class: type[EntryT], name: str) -> EntryT:
        kind = _KINDS[entry_class]
        for folder in self.folders:
            path = folder / kind / f"{name}.yaml"
            if re.fullmatch(ID_PATTERN, name) and path.is_file():
                if path not in self._entries:
                    self._entries[path] = _read_entry(path, entry_class)
                found: EntryT = self._entries[path]
                return found
        raise CatalogError(f"no entry {name!r} in {kind}: {advise(name, self.list_ids(kind), 30)}")


def _read_entry(path: Path, entry_class: type[EntryT]) -> EntryT:
    document = read_document(path)
    entry: Any = parse_model(document, entry_class)
    if entry.id != path.stem:
        message = f"must be the file's name {path.stem!r}, got {entry.id!r}"
        raise RecipeError((document.make_problem(("id",), message),))
    if isinstance(entry, ModelEntry | ClassifierEntry):
        folder = (path.parent / entry.source).resolve()
        local = isinstance(entry, ClassifierEntry) or entry.source.startswith((".", "/"))
        if local or folder.is_dir():
            entry = entry.model_copy(update={"source": str(folder)})
    found: EntryT = entry
    return found


def load_catalogs(folders: Sequence[Path] = ()) -> Catalogs:
    """Opens user catalog folders, searched in order, and the shipped catalogs behind them.

    Raises:
        CatalogError: a folder that is missing or holds no kind of entry.
    """
    kinds = tuple(_KINDS.values())
    for folder in folders:
        if not folder.is_dir():
            raise CatalogError(f"{folder}: no such catalog folder: correct the path")
        if not any((folder / kind).is_dir() for kind in kinds):
            raise CatalogError(f"{folder}: no catalog: make one of the folders {', '.join(kinds)}")
    return Catalogs((*folders, find_shipped_folder("catalogs")))


def find_shipped_folder(name: str) -> Path:
    """Returns the `catalogs` or `recipes` that came with factory.

    In an installed wheel they lie inside the package, in a checkout beside it.

    Raises:
        CatalogError: a broken installation that lacks them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise CatalogError(f"{package / name}: the shipped {name} are missing: install factory again")
