"""Checks of a recipe's filters against catalogs, folders and the classes that are asked for."""

from pathlib import Path

from factory.errors import CatalogError, FactoryError, InputError, RecipeError, SourceError
from factory.filter_settings import ClassifierFilter, TrainingCopyFilter
from factory.filters import list_score_names
from factory.findings import AskedClasses, Findings
from factory.messages import advise
from factory.recipe import BestPick, ReferenceConditions


def check_filters(findings: Findings, asked: AskedClasses) -> None:
    """Notes what is wrong with the filters, and with what picks by their scores."""
    _check_pick(findings)
    for number, settings in enumerate(findings.loaded.recipe.filters):
        if isinstance(settings, ClassifierFilter):
            _check_classifier(findings, settings.model, ("filters", number, "model"), asked)
        elif isinstance(settings, TrainingCopyFilter):
            _check_training_copy(findings, settings, number)


def _check_training_copy(findings: Findings, settings: TrainingCopyFilter, number: int) -> None:
    from factory.sources import list_images

    conditions = findings.loaded.recipe.conditions
    if settings.images is None:
        if not any(isinstance(part, ReferenceConditions) for part in conditions):
            message = "has nothing to compare with: set images, or remove the filter"
            findings.add(("filters", number), message)
    elif findings.check_files:
        try:
            list_images(findings.resolve(settings.images))
        except SourceError as error:
            findings.add(("filters", number, "images"), str(error))


def _check_classifier(
    findings: Findings, name: str, path: tuple[str | int, ...], asked: AskedClasses
) -> None:
    try:
        known = _read_classes(findings, name)
    except CatalogError as error:
        findings.add(path, f"no classifier folder and {error}")
    except RecipeError as error:
        findings.problems.extend(error.problems)
    except FactoryError as error:
        findings.add(path, str(error))
    else:
        for asked_name, where in asked.fields.items():
            if known is not None and asked_name not in known:
                hint = advise(asked_name, known)
                message = f"classifier {name} does not know class {asked_name!r}: {hint}"
                findings.add(where, f"{message}; rename the class or take another classifier")


def _read_classes(findings: Findings, name: str) -> tuple[str, ...] | None:
    """Returns the classes of a classifier, by catalog id or folder; None where not to be read.

    Raises:
        CatalogError: neither a folder nor a catalog id.
        RecipeError: its catalog file is wrong.
        InputError: a folder that holds no classifier, or a damaged one.
    """
    folder = findings.resolve(name)
    if name in findings.catalogs.list_ids("classifiers"):
        entry = findings.catalogs.find_classifier(name)
        if findings.check_files:
            _read_folder(Path(entry.source))
        return entry.class_names
    if not findings.check_files and ("/" in name or folder.is_dir()):
        return None
    if not folder.is_dir() and "/" not in name:
        return findings.catalogs.find_classifier(name).class_names
    return _read_folder(folder)


def _read_folder(folder: Path) -> tuple[str, ...]:
    from factory.filters.classifier_model import check_classifier

    if not folder.is_dir():
        raise InputError(f"no such classifier folder {str(folder)!r}: correct the path")
    try:
        return check_classifier(folder).class_names
    except RecipeError as error:
        more = len(error.problems) - 1
        also = f" and {more} more" if more else ""
        do = "make it anew with `factory train classifier`"
        raise InputError(f"{error.problems[0]}{also}: {do}") from error


def _check_pick(findings: Findings) -> None:
    recipe = findings.loaded.recipe
    if isinstance(recipe.pick, BestPick):
        known = list_score_names(recipe.filters)
        name = recipe.pick.by.removeprefix("-")
        if name not in known:
            message = f"no filter of the recipe writes score {name!r}: {advise(name, known)}"
            findings.add(("pick", "by"), message)
