"""Where checks note problems and look things up: files of the user, catalog ids, classes."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from factory.catalog.catalog import Catalogs
from factory.core.errors import CatalogError, Problem, RecipeError
from factory.core.yaml.messages import advise, suggest
from factory.core.yaml.reader import Document, FieldPath

FoundT = TypeVar("FoundT")


@dataclass
class AskedClasses:
    """Classes that the conditions ask for, each with the field that asks."""

    fields: dict[str, FieldPath] = field(default_factory=dict)

    def add(self, names: Sequence[str], path: FieldPath, *, keyed: bool = False) -> None:
        """Notes classes; `keyed` where each stands as a key below `path`."""
        for name in names:
            self.fields.setdefault(name, (*path, name) if keyed else path)


@dataclass
class Checker:
    """The problems of a document found so far, and what checks need to look things up."""

    document: Document
    base: Path
    """Folder that relative paths start from."""
    catalogs: Catalogs
    check_files: bool
    """Whether to look at the user's own files, too."""
    problems: list[Problem] = field(default_factory=list)
    pixels: tuple[int, int] | None = None
    """Width and height of the images to be made, where recipe or catalog tell."""
    asked: AskedClasses = field(default_factory=AskedClasses)

    def add(self, path: FieldPath, message: str) -> None:
        """Notes a problem at a field."""
        self.problems.append(self.document.make_problem(path, message))

    def look_up(self, path: FieldPath, find: Callable[[str], FoundT], name: str) -> FoundT | None:
        """Returns a catalog entry, or None with the problem noted."""
        try:
            return find(name)
        except CatalogError as error:
            self.add(path, str(error))
        except RecipeError as error:
            self.problems.extend(error.problems)
        return None

    def resolve(self, path: Path | str) -> Path:
        """Returns a path of the recipe as one that can be opened."""
        return self.base / Path(path).expanduser()

    def check_asked(self, who: str, known: Sequence[str]) -> None:
        """Notes classes that are asked for and that a judge of classes does not know."""
        for name, where in self.asked.fields.items():
            if name not in known:
                message = f"{who} does not know class {name!r}: {advise(name, known)}"
                self.add(where, f"{message}; rename the class or take one that does")

    def check_names(
        self,
        names: Sequence[str],
        known: Sequence[str] | None,
        path: FieldPath,
        owner: str,
        *,
        keyed: bool = True,
    ) -> None:
        """Checks that names are known to their owner; `keyed` where each is a key below `path`."""
        for name in names:
            if known is not None and name not in known:
                place = (*path, name) if keyed else path
                self.add(place, f"no class {name!r} in {owner}: {advise(name, tuple(known))}")

    def check_template(self, template: str | None, path: FieldPath, *, required: bool) -> None:
        """Checks that the only name in braces is `class_name`, and that it is there if required."""
        if template is None:
            return
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            self.add(path, f"{error}, got {template!r}: braces are for {{class_name}} only")
            return
        fields = [
            f"{name}!{conversion}" if conversion else f"{name}:{form}" if form else name
            for _, name, form, conversion in parts
            if name is not None
        ]
        for name in fields:
            if name != "class_name":
                hint = suggest(name, ("class_name",)) or "only {class_name} is known"
                self.add(path, f"unknown {{{name}}}, got {template!r}: {hint}")
        if required and not fields:
            self.add(path, f"must hold {{class_name}}, got {template!r}: add it")
