"""Kinds by name: those of this project, those of installed packages, and one file of one's own.

A package adds a kind by an entry point whose name is the kind and whose value is its class, e.g.
`[project.entry-points."factory.filters"]`, `saturation = "my_package.saturation:Saturation"`.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from keyword import iskeyword
from operator import or_
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from factory.core.errors import CatalogError, FactoryError, PluginError, SourceError
from factory.core.hashing import hash_bytes
from factory.core.yaml.messages import advise

KindT = TypeVar("KindT")


def name_kind(cls: type) -> None:
    """Sets the `kind` of a class that names none to the one word that its own `Settings` take.

    Settings without a docstring get what their kind says: the first line of its module after a
    "`NAME`: ", or the class's docstring.
    """
    own = vars(cls).get("Settings")
    if own is None:
        return
    told = getattr(sys.modules.get(cls.__module__), "__doc__", None) or ""
    said = told.partition("\n")[0].partition("`: ")[2]
    own.__doc__ = own.__doc__ or said[:1].upper() + said[1:] or cls.__doc__
    if "kind" not in vars(cls) and "kind" in own.model_fields:
        words = get_args(own.model_fields["kind"].annotation)
        if len(words) == 1:
            setattr(cls, "kind", words[0])  # noqa: B010


class Registry(Generic[KindT]):
    """The kinds of one group, found on first use; of a broken plug-in only the error is kept.

    Args:
        group: of entry points, e.g. `factory.filters`.
        base: class that every kind inherits from. A kind has `kind`, its name, in its own body, or
            where `name_kind` sees to it in the `Settings` of its own body.
        built_in: the package whose modules hold this project's kinds, all imported at once; or
            kind -> `module:Class`, each imported on use.
    """

    def __init__(self, group: str, base: type[KindT], built_in: str | Mapping[str, str]) -> None:
        self.group, self.base, self._built_in = group, base, built_in
        self._loaded: dict[str, type[KindT]] = {}
        self._broken: dict[str, PluginError] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All kinds: those of this project, then those of plug-ins; broken ones too."""
        return (*self._own, *sorted(self._entries.keys() - self._own.keys()))

    def get(self, name: str) -> type[KindT]:
        """Returns the class of a kind.

        Raises:
            CatalogError: no such kind.
            PluginError: its plug-in is broken, or a package names a kind of this project anew;
                says which package and what failed.
        """
        if name in self._broken:
            raise self._broken[name]
        if name not in self._loaded:
            if name in self._entries:
                try:
                    self._loaded[name] = self._load_plugin(name)
                except PluginError as error:
                    self._broken[name] = error
                    raise
            else:
                self._loaded[name] = self._load_own(name)
        return self._loaded[name]

    def find_plugin(self, name: str) -> str | None:
        """Returns which package a kind comes from; None for one of this project."""
        return _describe(self._entries[name][0]) if name in self._entries else None

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Around code of a kind: what that of a plug-in raises is told with its package.

        Raises:
            PluginError: a plug-in's code failed by no error of factory's own.
        """
        plugin = self.find_plugin(name)
        if plugin is None:
            yield
        else:
            with _blame(f"{name!r} is broken ({plugin})", passed=FactoryError):
                yield

    def list_all(self) -> tuple[dict[str, type[KindT]], dict[str, PluginError]]:
        """Returns the classes of all kinds that load, and the errors of the others."""
        working, broken = {}, {}
        for name in self.names:
            try:
                working[name] = self.get(name)
            except PluginError as error:
                broken[name] = error
        return working, broken

    def build_union(self) -> Any:
        """Returns the union of all kinds' nested `Settings`, told apart by their field `kind`.

        A broken plug-in has a branch too: it refuses whatever names it, with the plug-in's error.
        """
        working, broken = self.list_all()
        members = [getattr(each, "Settings") for each in working.values()]  # noqa: B009
        members += [_refuse_all(name, error) for name, error in broken.items()]
        if len(members) == 1:
            return members[0]
        return Annotated[reduce(or_, members), Field(discriminator="kind")]

    def _load_own(self, name: str) -> type[KindT]:
        """Returns a kind of this project: of the module named so, if there is one, or of any.

        Raises:
            CatalogError: no such kind.
        """
        for module in self._list_modules():
            # What Python keeps for itself no module is named: `class` is in class_name.py.
            if module == name or (iskeyword(name) and module.startswith(f"{name}_")):
                found = self._read_module(module)
                if name in found:
                    return import_name(found[name])  # type: ignore[no-any-return]
        if name not in self._own:
            noun = self.group.rpartition(".")[2]
            raise CatalogError(f"{noun}: no kind {name!r}: {advise(name, self.names)}")
        return import_name(self._own[name])  # type: ignore[no-any-return]

    @cached_property
    def _own(self) -> dict[str, str]:
        if not isinstance(self._built_in, str):
            return dict(self._built_in)
        modules = self._list_modules()
        return {kind: place for each in modules for kind, place in self._read_module(each).items()}

    def _list_modules(self) -> list[str]:
        """Returns the modules of this project's package of kinds; none of a mapping."""
        if not isinstance(self._built_in, str):
            return []
        package = import_module(self._built_in)
        return [info.name for info in iter_modules(package.__path__) if not info.ispkg]

    def _read_module(self, name: str) -> dict[str, str]:
        """Returns kind -> `module:Class` of a module of that package."""
        module = import_module(f"{self._built_in}.{name}")
        kinds = _list_kinds(module, self.base)
        return {each.kind: f"{module.__name__}:{each.__name__}" for each in kinds}  # type: ignore[attr-defined]

    @cached_property
    def _entries(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in _read_entry_points(tuple(sys.path)).select(group=self.group):
            if entry not in found.get(entry.name, ()):
                found.setdefault(entry.name, []).append(entry)
        return found

    def _load_plugin(self, name: str) -> type[KindT]:
        first, *more = self._entries[name]
        origin = _describe(first)
        if name in self._own:
            raise PluginError(
                f"{name!r} is a kind of factory's own, and {origin} has it too: rename that, or "
                "uninstall the package"
            )
        if more:
            raise PluginError(f"{name!r} is there twice: {origin}; {_describe(more[0])}")
        with _blame(f"{name!r} is broken ({origin})"):
            found = first.load()
        fault = find_fault(found, self.base)
        if fault is None and found.kind != name:
            fault = f"its kind is {found.kind!r}: name the entry point so"
        if fault is not None:
            raise PluginError(f"{name!r} is broken ({origin}): {fault}")
        return found  # type: ignore[no-any-return]


@cache
def _read_entry_points(places: tuple[str, ...]) -> Any:
    """Returns all entry points of the packages in some folders: what is installed is read once.

    Python 3.11 gives another type than later ones; both have `select`.
    """
    return entry_points()


def load_from_file(path: Path, name: str, base: type[KindT]) -> tuple[type[KindT], str]:
    """Runs a Python file of the user's own and returns a class of it, and the file's sha256.

    It runs once in a process as long as it says the same.

    Raises:
        SourceError: a file that cannot be read.
        PluginError: it fails, or has no such class of this base; says where.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    digest = hash_bytes(source)
    module = ModuleType(f"factory_own_{digest[:16]}")
    module.__file__ = str(path)
    known = sys.modules.get(module.__name__)
    if known is not None and known.__file__ == module.__file__:
        module = known
    else:
        sys.modules[module.__name__] = module  # where pydantic looks annotations up
        try:
            with _blame(str(path)):
                exec(compile(source, str(path), "exec"), module.__dict__)
        except PluginError:
            del sys.modules[module.__name__]
            raise
    found = getattr(module, name, None)
    if found is None:
        listed = [each.__name__ for each in _list_kinds(module, base)]
        raise PluginError(f"{path}: has no class {name!r}: {advise(name, listed)}")
    fault = find_fault(found, base)
    if fault is not None:
        raise PluginError(f"{path}: {name} {fault}")
    return found, digest


def find_fault(found: Any, base: type[Any]) -> str | None:
    """Says why a class cannot be a kind; None: it can."""
    if not (isinstance(found, type) and issubclass(found, base)):
        return f"is no class that inherits from {base.__module__}.{base.__name__}"
    if not isinstance(vars(found).get("kind"), str):
        return "has no kind: name it in the class, or in its Settings as `kind: Literal[...]`"
    settings = getattr(found, "Settings", None)
    if hasattr(base, "Settings"):
        field = settings.model_fields.get("kind") if settings is not None else None
        if field is None or get_args(field.annotation) != (vars(found)["kind"],):
            return f'its Settings need the field `kind: Literal["{vars(found)["kind"]}"]`'
    return None


def _list_kinds(module: ModuleType, base: type[KindT]) -> list[type[KindT]]:
    """Returns the classes that a module defines and that state their kind."""
    return [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, base)
        and each.__module__ == module.__name__
        and "kind" in vars(each)
    ]


def import_name(name: str) -> Any:
    """Imports what `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _describe(entry: EntryPoint) -> str:
    package = "unknown " if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"package {package}, entry point {entry.group}: {entry.name} = {entry.value}"


@contextmanager
def _blame(who: str, passed: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
    """Around other people's code: what it raises, but `passed`, is told with its last line."""
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:
        frames = [
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename not in (__file__, contextlib.__file__)
            and "importlib" not in frame.filename
        ]
        text = f"{who}: {type(error).__name__}: {error}"
        raise PluginError(text, frames[-1] if frames else "") from error


def _refuse_all(name: str, error: PluginError) -> type[BaseModel]:
    """Returns settings of a broken kind: whatever names it gets the error."""

    def refuse(cls: Any, data: Any) -> Any:
        raise ValueError(str(error))

    return create_model(
        f"Broken {name}",
        __config__=ConfigDict(extra="allow", frozen=True),
        __doc__=f"Broken: {error}",
        __validators__={"refuse": model_validator(mode="before")(refuse)},  # type: ignore[dict-item]
        kind=(Literal[name], ...),  # type: ignore[arg-type]
    )
