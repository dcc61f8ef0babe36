"""Checks a recipe's conditions against the model, the catalogs and the user's own files."""

import re
from collections.abc import Sequence
from pathlib import Path

from factory.catalog.vocabulary import NEEDS_CLASS
from factory.core.errors import SourceError
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage
from factory.recipe.checks.findings import (
    AskedClasses,
    Findings,
    Model,
    check_names,
    check_template,
)
from factory.recipe.recipe import (
    CaptionConditions,
    ClassConditions,
    GivenConditions,
    ReferenceConditions,
)


def check_conditions(findings: Findings, model: Model | None) -> AskedClasses:
    """Checks all condition blocks; returns the classes that they ask for."""
    asked = AskedClasses()
    identities: dict[tuple[str, ...], FieldPath] = {}
    for number, settings in enumerate(findings.loaded.recipe.conditions):
        path: FieldPath = ("conditions", number)
        if isinstance(settings, ClassConditions):
            found = _check_classes(findings, model, settings, path, asked)
        elif isinstance(settings, CaptionConditions):
            found = _check_captions(findings, model, settings, path, asked)
        elif isinstance(settings, GivenConditions):
            found = _check_given(findings, model, settings, path, asked)
        else:
            found = _check_references(findings, model, settings, path, asked)
        for identity in found:
            if identity in identities:
                first = identities[identity]
                what = " ".join(identity)
                message = f"asks again for {what}, which conditions[{first[1]}] makes: join them"
                findings.add(path, message)
            identities.setdefault(identity, path)
    return asked


def _check_classes(
    findings: Findings,
    model: Model | None,
    settings: ClassConditions,
    path: FieldPath,
    asked: AskedClasses,
) -> list[tuple[str, ...]]:
    known: tuple[str, ...] | None = None
    if model is not None and model.in_catalog:
        known = model.class_names
    if isinstance(settings.classes, str):
        find = findings.catalogs.find_classes
        entry = findings.look_up((*path, "classes"), find, settings.classes)
        known = None if entry is None else tuple(part.name for part in entry.classes)
    elif settings.classes is not None:
        known = settings.classes
        if len(set(known)) < len(known):
            findings.add((*path, "classes"), f"names a class twice, got {', '.join(known)}")
    place: FieldPath = (*path, "per_class")
    if isinstance(settings.per_class, int):
        names = known or ()
        if known is None and settings.classes is None and model is not None:
            message = f"a number needs class names, and the catalog has none for {model.name}"
            findings.add(place, f"{message}: set classes, or write class: count")
        asked.add(names, place)
    else:
        names = tuple(settings.per_class)
        check_names(findings, names, known if settings.classes else None, place, "classes")
        if not names:
            findings.add(place, "names no class: add class: count")
        asked.add(names, place, keyed=True)
    _check_stream(findings, model, "class_name", path)
    if model is not None and model.class_names == ():
        message = f"{model.name} has learned no classes: ask by caption or reference"
        findings.add((*path, "kind"), f"{message}, or adapt it with factory train adapter")
        return []
    listed = settings.classes is not None and isinstance(settings.per_class, int)
    where = (*path, "classes") if listed else place
    _check_model_classes(findings, model, names, where, keyed=not listed)
    return [("class", name) for name in names]


def _check_captions(
    findings: Findings,
    model: Model | None,
    settings: CaptionConditions,
    path: FieldPath,
    asked: AskedClasses,
) -> list[tuple[str, ...]]:
    place: FieldPath = (*path, "captions")
    _check_stream(findings, model, "caption", path)
    file = findings.resolve(settings.captions)
    if file.is_file():
        _check_caption_file(findings, settings, file, path, asked)
    elif _looks_like_file(settings.captions):
        if findings.check_files:
            findings.add(place, f"no such file {str(file)!r}: give a caption file or a catalog id")
    else:
        grid = findings.look_up(place, findings.catalogs.find_captions, settings.captions)
        if settings.class_column is not None:
            findings.add((*path, "class_column"), "is for caption files, not for grids: remove it")
        if grid is not None and grid.class_attribute is not None:
            asked.add(tuple(grid.attributes[grid.class_attribute]), place)
    return [("captions", settings.captions, settings.column)]


def _check_caption_file(
    findings: Findings,
    settings: CaptionConditions,
    file: Path,
    path: FieldPath,
    asked: AskedClasses,
) -> None:
    from factory.catalog.captions.file import read_captions

    if not findings.check_files:
        return
    try:
        _, classes = read_captions(file, settings.column, settings.class_column)
    except SourceError as error:
        findings.add((*path, "captions"), str(error))
        return
    asked.add(tuple(dict.fromkeys(name for name in classes if name)), (*path, "class_column"))


def _looks_like_file(text: str) -> bool:
    return "/" in text or re.search(r"\.(jsonl|ndjson|json|csv|tsv|parquet|txt)$", text) is not None


def _check_references(
    findings: Findings,
    model: Model | None,
    settings: ReferenceConditions,
    path: FieldPath,
    asked: AskedClasses,
) -> list[tuple[str, ...]]:
    _check_stream(findings, model, "reference", path)
    check_template(findings, settings.caption, (*path, "caption"), required=False)
    if settings.caption is not None and model and not _takes(model, "caption"):
        findings.add((*path, "caption"), f"{model.name} takes no text: remove it")
    groups_fine = _check_groups(findings, settings, path)
    counts: dict[str, int] | None = None
    if findings.check_files and groups_fine:
        counts = _count_references(findings, settings, path)
    place: FieldPath = (*path, "per_class")
    keyed = not isinstance(settings.per_class, int)
    if isinstance(settings.per_class, int):
        names = tuple(name for name in counts or () if name)
    else:
        names = tuple(settings.per_class)
        if not names:
            findings.add(place, "names no class: add class: count")
        if counts is not None:
            check_names(findings, names, tuple(counts), place, "the images")
    for name in names or ("",):
        has = None if counts is None else counts.get(name)
        if settings.shots is not None and has is not None and has < settings.shots:
            of = f" of class {name}" if name else ""
            message = f"{settings.shots} asked for, but there are {has} images{of}: lower shots"
            findings.add((*path, "shots"), message)
    asked.add(names, place, keyed=keyed)
    identity = ("images", str(settings.images), "at strength", f"{settings.strength:g}")
    return [(*identity, "of class", name) for name in names] if names else [identity]


def _check_given(
    findings: Findings,
    model: Model | None,
    settings: GivenConditions,
    path: FieldPath,
    asked: AskedClasses,
) -> list[tuple[str, ...]]:
    from factory.recipe.conditions import list_given

    _check_stream(findings, model, "given", path)
    if _check_groups(findings, settings, path) and findings.check_files:
        try:
            images = list_given(settings, findings.loaded.base)
        except SourceError as error:
            findings.add((*path, "images"), str(error))
        else:
            names = dict.fromkeys(image.class_name for image in images)
            asked.add(tuple(name for name in names if name), (*path, "images"))
            _check_known_of(findings, images, (*path, "images"))
    if findings.loaded.recipe.budget.attempts != 1:
        findings.add(("budget", "attempts"), "given images are judged once: set it to 1")
    return [("images", str(settings.images))]


def _check_known_of(findings: Findings, images: Sequence[SourceImage], path: FieldPath) -> None:
    """Notes filters that would accept every image, as none has the class or caption they need."""
    for kind in (settings.kind for settings in findings.loaded.recipe.filters):
        if kind in NEEDS_CLASS and not any(image.class_name for image in images):
            message = f"no image has a class, which filter {kind} needs: sort them into folders"
            findings.add(path, f"{message} by class, or set label_column")
        if kind == "alignment" and not any(image.caption for image in images):
            message = "no image has a caption, which filter alignment needs: set caption_column"
            findings.add(path, message)


def _check_groups(
    findings: Findings, settings: ReferenceConditions | GivenConditions, path: FieldPath
) -> bool:
    pattern = settings.group_pattern
    if pattern is None:
        return True
    if settings.group_column is not None:
        findings.add((*path, "group_pattern"), "either group_column or group_pattern: remove one")
        return False
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        findings.add((*path, "group_pattern"), f"no regular expression ({error}), got {pattern!r}")
        return False
    if groups < 1:
        message = f"needs a group in parentheses around the patient or slide, got {pattern!r}"
        findings.add((*path, "group_pattern"), message)
    return groups >= 1


def _count_references(
    findings: Findings, settings: ReferenceConditions, path: FieldPath
) -> dict[str, int] | None:
    """Returns class (or an empty name) -> images, or None with the problem noted."""
    from factory.data.images import check_fit, list_images

    try:
        images = list_images(
            findings.resolve(settings.images),
            image_column=settings.image_column,
            group_column=settings.group_column,
            group_pattern=settings.group_pattern,
        )
        if findings.pixels is not None:
            check_fit(images, *findings.pixels, settings.fit, findings.resolve(settings.images))
    except SourceError as error:
        findings.add((*path, "images"), str(error))
        return None
    counts: dict[str, int] = {}
    for image in images:
        name = image.class_name or ""
        counts[name] = counts.get(name, 0) + 1
    return counts


# --- what model and conditions must agree on -----------------------------------------------------


def _takes(model: Model, stream: str) -> bool:
    return model.streams is None or stream in model.streams


def _check_stream(findings: Findings, model: Model | None, stream: str, path: FieldPath) -> None:
    if model is None or model.streams is None:
        return
    if stream not in model.streams:
        kinds = {"class_name": "class", "caption": "caption"}
        kinds |= {name: name for name in ("reference", "given")}
        takes = ", ".join(kind for name, kind in kinds.items() if name in model.streams)
        message = f"{model.name} takes no {kinds[stream]} conditions"
        findings.add((*path, "kind"), f"{message}: take {takes or 'another model'}")
    elif stream == "caption" and "class_name" in model.required:
        findings.add((*path, "kind"), f"{model.name} needs a class: use kind: class")


def _check_model_classes(
    findings: Findings, model: Model | None, names: Sequence[str], path: FieldPath, keyed: bool
) -> None:
    if model is not None and model.class_names is not None:
        check_names(findings, names, model.class_names, path, model.name, keyed=keyed)
