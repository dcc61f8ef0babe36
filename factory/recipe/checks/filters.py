"""Checks of a recipe's filters against catalogs, folders and the classes that are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factory.catalog.vocabulary import NEEDS_CLASS
from factory.core.errors import CatalogError, FactoryError, InputError, RecipeError, SourceError
from factory.core.notes import tell
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.images.fit import LEAST_SHARE, describe_crop
from factory.filters import list_score_names
from factory.filters.settings import (
    AgreementFilter,
    AlignmentFilter,
    ClassifierFilter,
    RealismFilter,
    TrainingCopyFilter,
    ZeroShotFilter,
)
from factory.models.encoders.clip_text import LOCAL, resolve_clip
from factory.recipe.checks.findings import AskedClasses, Findings
from factory.recipe.checks.real import check_encoder, check_realism, check_training_copy
from factory.recipe.recipe import BestPick, DiversePick

if TYPE_CHECKING:
    from factory.models.classifiers.model import ClassifierInfo


def check_filters(findings: Findings, asked: AskedClasses) -> None:
    """Notes what is wrong with the filters, and with what picks by their scores."""
    _check_pick(findings)
    _check_judges_of_classes(findings, asked)
    for number, settings in enumerate(findings.loaded.recipe.filters):
        if isinstance(settings, ClassifierFilter):
            _check_classifier(findings, settings, number, asked)
        elif isinstance(settings, AgreementFilter):
            for place, name in enumerate(settings.models):
                check_known(findings, name, ("filters", number, "models", place), asked)
        elif isinstance(settings, ZeroShotFilter):
            _check_zero_shot(findings, settings, number, asked)
        elif isinstance(settings, AlignmentFilter):
            _check_alignment(findings, settings, number)
        elif isinstance(settings, RealismFilter):
            check_realism(findings, settings, number, asked)
        elif isinstance(settings, TrainingCopyFilter):
            check_training_copy(findings, settings, number)


def _check_judges_of_classes(findings: Findings, asked: AskedClasses) -> None:
    """Notes filters that would judge nothing, as no condition has a class."""
    recipe = findings.loaded.recipe
    is_existing = any(block.is_existing for block in recipe.blocks)  # checked by image
    if asked.fields or is_existing or findings.problems or not findings.check_files:
        return
    for number, settings in enumerate(recipe.filters):
        if settings.kind in NEEDS_CLASS:
            message = f"no condition has a class, so that filter {settings.kind} judges nothing"
            findings.add(
                ("filters", number),
                f"{message}: ask by class, name class_column, sort images into folders by class, "
                "or remove the filter",
            )


def _check_classifier(
    findings: Findings, settings: ClassifierFilter, number: int, asked: AskedClasses
) -> None:
    known = check_known(findings, settings.model, ("filters", number, "model"), asked)
    if isinstance(settings.min_probability, dict):
        path: FieldPath = ("filters", number, "min_probability")
        names = None if known is None else known.class_names
        findings.check_names(tuple(settings.min_probability), names, path, settings.model)
        for name in asked.fields:
            if name not in settings.min_probability:
                findings.add(path, f"leaves out class {name!r}, which is asked for: add it")
    wished = settings.min_precision
    if wished is None or known is None or known.info is None:
        return
    path = ("filters", number, "min_precision")
    if known.info.thresholds is None:
        message = "has no thresholds by precision (too few images, or of an older version)"
        findings.add(path, f"{settings.model} {message}: use min_probability, or fit it again")
        return
    for name in asked.fields:
        rows = known.info.thresholds.get(name, ())
        best = max((row.precision for row in rows), default=0.0)
        if name in known.class_names and best < wished:
            message = f"{settings.model} reaches {wished:g} at no probability for class {name!r}"
            findings.add(path, f"{message} (highest tabled: {best:g}): lower it")


def _check_zero_shot(
    findings: Findings, settings: ZeroShotFilter, number: int, asked: AskedClasses
) -> None:
    place: FieldPath = ("filters", number)
    for row, template in enumerate(settings.templates or ()):
        findings.check_template(template, (*place, "templates", row), required=True)
    entry = findings.look_up((*place, "classes"), findings.catalogs.find_classes, settings.classes)
    if entry is not None:
        known = tuple(each.name for each in entry.classes)
        if len(known) < 2:
            findings.add((*place, "classes"), f"{entry.id} has one class: nothing to tell apart")
        _check_asked(findings, f"class list {entry.id}", known, asked)
    _check_clip(findings, settings.encoder, (*place, "encoder"))


def _check_clip(findings: Findings, spec: str, path: FieldPath) -> None:
    if spec in findings.catalogs.list_ids("encoders"):
        check_encoder(findings, spec, path)
    if findings.check_files or not spec.startswith(LOCAL):
        try:
            resolve_clip(spec, findings.loaded.base, findings.catalogs)
        except InputError as error:
            findings.add(path, str(error))


def _check_alignment(findings: Findings, settings: AlignmentFilter, number: int) -> None:
    from factory.filters.distractors import open_pool

    place: FieldPath = ("filters", number)
    _check_clip(findings, settings.encoder, (*place, "encoder"))
    if not any(block.has_caption for block in findings.loaded.recipe.blocks):
        findings.add(place, "no condition has a caption: remove the filter")
    if settings.captions is None:
        return
    find, base = findings.catalogs.find_captions, findings.loaded.base
    try:
        pool = open_pool(settings.captions, base, settings.column, find)
    except CatalogError as error:
        if findings.check_files or "/" not in settings.captions:
            findings.add((*place, "captions"), f"no such file, and {error}")
    except (SourceError, RecipeError) as error:
        findings.add((*place, "captions"), str(error))
    else:
        if pool.count <= settings.distractors:
            message = f"{settings.captions} has {pool.count} captions: lower it"
            findings.add((*place, "distractors"), f"{message} to {pool.count - 1} or less")


@dataclass(frozen=True, slots=True)
class KnownClassifier:
    """The classes of a classifier, and what its folder says; None where not to be read."""

    class_names: tuple[str, ...]
    info: "ClassifierInfo | None" = None


def check_known(
    findings: Findings, name: str, path: FieldPath, asked: AskedClasses
) -> KnownClassifier | None:
    """Returns a classifier, or None with the problem noted or where nothing is to be read.

    Classes that are asked for and that it does not know are noted too.
    """
    try:
        known = _read_known(findings, name)
    except CatalogError as error:
        findings.add(path, f"no classifier folder and {error}")
        return None
    except RecipeError as error:
        findings.problems.extend(error.problems)
        return None
    except FactoryError as error:
        findings.add(path, str(error))
        return None
    if known is not None:
        _check_asked(findings, f"classifier {name}", known.class_names, asked)
        if known.info is not None and findings.pixels is not None:
            _tell_fit(name, known.info, findings.pixels)
    return known


def _tell_fit(name: str, info: "ClassifierInfo", pixels: tuple[int, int]) -> None:
    """Says where a classifier that keeps the scale enlarges the images, or sees little of them."""
    side = info.image_size
    if info.fit != "crop":
        return
    if min(pixels) < side:
        tell(
            f"classifier {name} was fitted on {side} px at the images' own scale: images of "
            f"{pixels[0]} x {pixels[1]} px are enlarged for it; fit one with --size {min(pixels)}"
        )
    elif side * side < LEAST_SHARE * pixels[0] * pixels[1]:
        tell(
            f"classifier {name}: {describe_crop((side, side), pixels)}; one fitted with --fit "
            "resize sees all"
        )


def _check_asked(findings: Findings, who: str, known: tuple[str, ...], asked: AskedClasses) -> None:
    for name, where in asked.fields.items():
        if name not in known:
            hint = advise(name, known)
            message = f"{who} does not know class {name!r}: {hint}"
            findings.add(where, f"{message}; rename the class or take one that does")


def _read_known(findings: Findings, name: str) -> KnownClassifier | None:
    """Reads a classifier by catalog id or folder; None where it is not to be read.

    Raises:
        CatalogError: neither a folder nor a catalog id.
        RecipeError: its catalog file is wrong.
        InputError: a folder that holds no classifier, or a damaged one.
    """
    folder = findings.resolve(name)
    if name in findings.catalogs.list_ids("classifiers"):
        entry = findings.catalogs.find_classifier(name)
        info = _read_folder(Path(entry.source)) if findings.check_files else None
        return KnownClassifier(entry.class_names, info)
    if not findings.check_files and ("/" in name or folder.is_dir()):
        return None
    if not folder.is_dir() and "/" not in name:
        return KnownClassifier(findings.catalogs.find_classifier(name).class_names)
    info = _read_folder(folder)
    return KnownClassifier(info.class_names, info)


def _read_folder(folder: Path) -> "ClassifierInfo":
    from factory.models.classifiers.model import check_classifier

    if not folder.is_dir():
        raise InputError(f"no such classifier folder {str(folder)!r}: correct the path")
    try:
        return check_classifier(folder)
    except RecipeError as error:
        more = len(error.problems) - 1
        also = f" and {more} more" if more else ""
        do = "make it anew with `factory train classifier`"
        raise InputError(f"{error.problems[0]}{also}: {do}") from error


def _check_pick(findings: Findings) -> None:
    recipe = findings.loaded.recipe
    if isinstance(recipe.pick, DiversePick):
        check_encoder(findings, recipe.pick.encoder, ("pick", "encoder"))
    if isinstance(recipe.pick, BestPick):
        known = list_score_names(recipe.filters)
        name = recipe.pick.by.removeprefix("-")
        if name not in known:
            message = f"no filter of the recipe writes score {name!r}: {advise(name, known)}"
            findings.add(("pick", "by"), message)
