"""What a run's images were made and judged with that somebody trained, and whose images it saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from factory.catalog.catalog import find_shipped_folder
from factory.core.errors import CatalogError, InputError
from factory.data.patients import PATIENTS, read_patients
from factory.engine.forget.touched import Matches
from factory.filters import build_filters
from factory.models.classifiers.model import INFO_NAME, read_classifier_info
from factory.models.encoders import list_parts, open_kind
from factory.models.encoders.kinds.folder import FolderKind
from factory.models.generators.settings import find_entry
from factory.models.session import Session
from factory.recipe.recipe import Recipe, is_judging, list_kept_encoders


@dataclass(frozen=True, slots=True)
class Trained:
    """Something trained or fitted on images: a folder, or a file.

    Attributes:
        role: what it does, e.g. `filter classifier`.
        name: as the recipe names it.
        path: where it is, or should be.
        makes: whether images are made with it; else it judges them.
    """

    role: str
    name: str
    path: Path
    makes: bool

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def work(self) -> str:
        """What it does with rows."""
        return "made with" if self.makes else "judged by"


@dataclass(slots=True)
class Traced:
    """Whose images trained things saw.

    Attributes:
        touched: those that learned from a patient who is asked for.
        unknown: those of which it is not known, each with why.
        groups: hashes of the patients that were found in the former.
    """

    touched: list[Trained] = field(default_factory=list)
    unknown: list[tuple[Trained, str]] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def trace_trained(recipe: Recipe, session: Session, matches: Matches) -> Traced:
    """Looks into the records of all that a recipe names and that was trained.

    What ships with factory, and what is fetched from the Hub, was trained on data that its catalog
    entry and card name, and is passed over.

    Raises:
        InputError: a damaged record, or a catalog file that is wrong.
    """
    found = Traced()
    for one in dict.fromkeys(_list_trained(recipe, session)):
        if find_shipped_folder("catalogs") in one.path.parents:
            continue
        if not one.path.exists():
            found.unknown.append((one, f"{one.path} is not here: give --base or bring it back"))
            continue
        known = read_patients(one.path)
        if known is None:
            found.unknown.append((one, f"{one.path} has no {PATIENTS}"))
            continue
        theirs = {group for group in known.groups if matches([group])}
        found.groups |= theirs
        if theirs:
            found.touched.append(one)
        elif not known.is_whole:
            went_on = ", ".join(known.started_from)
            more = f"; it went on from {went_on}, of which nothing is known" if went_on else ""
            told = f"{known.unknown:,} of {known.images:,} images that it saw tell no patient{more}"
            found.unknown.append((one, told))
    return found


def _list_trained(recipe: Recipe, session: Session) -> Iterator[Trained]:
    if not is_judging(recipe):
        yield from _list_makers(recipe, session)
    for judge in build_filters(recipe.filters, session):
        for name in judge.classifiers:
            yield from _open_classifier(f"filter {judge.name}", name, session, makes=False)
        yield from _open_encoders(f"filter {judge.name}", judge.encoders, session, makes=False)
    for user, encoder in list_kept_encoders(recipe):
        yield from _open_encoders(user, [encoder], session, makes=False)


def _list_makers(recipe: Recipe, session: Session) -> Iterator[Trained]:
    settings = recipe.generator
    entry = find_entry(settings, session.catalogs)
    if entry is not None:
        sources = [("generator", settings.model, entry.source)]
        sources += [("adapter", settings.model, each.source) for each in entry.adapters]
    else:
        sources = [("generator", settings.model, settings.model)]
    sources += [("adapter", each.source, each.source) for each in settings.adapters]
    for role, name, source in sources:
        path = session.resolve(source)
        if path.is_dir() or _is_place(source):
            yield Trained(role, name, path, makes=True)
    guide = settings.classifier_guidance
    if guide is not None:
        yield from _open_classifier("guiding classifier", guide.model, session, makes=True)
    for block in recipe.blocks:
        yield from _open_encoders(f"condition {block.kind}", block.encoders, session, makes=True)
        try:
            for path in block.list_fitted(session):
                yield Trained(f"condition {block.kind}", path.name, path, makes=True)
        except CatalogError as error:
            raise InputError(str(error)) from error


def _open_classifier(role: str, name: str, session: Session, makes: bool) -> Iterator[Trained]:
    """Yields a classifier, and the encoder that it stands on where this is not its own."""
    folder = session.find_classifier_folder(name)
    yield Trained(role, name, folder, makes)
    if (folder / INFO_NAME).is_file():
        spec = read_classifier_info(folder).encoder
        base = Session(session.catalogs, folder)
        yield from _open_encoders(role, [] if spec == "." else [spec], base, makes)


def _open_encoders(
    role: str, specs: Sequence[str], session: Session, makes: bool
) -> Iterator[Trained]:
    """Yields image encoders that are folders here, those they move features of, their teachers."""
    catalogs = session.catalogs
    for spec in (each for asked in specs for each in list_parts(asked, catalogs)):
        entry = catalogs.get_encoder(spec)
        kind = open_kind(spec if entry is None else entry.source, entry, session.base)
        path = session.resolve(kind.weights)
        if path.is_dir() or (isinstance(kind, FolderKind) and _is_place(kind.weights)):
            yield Trained(role, spec, path, makes)


def _is_place(source: str) -> bool:
    """Whether a name is of a folder, here or not, and of nothing that is fetched or built in."""
    return "/" in source and (source.count("/") > 1 or source[0] in "/.~")
