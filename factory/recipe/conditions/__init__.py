"""Conditions: turns each block of a recipe into series of requests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.core.errors import SourceError
from factory.core.hashing import hash_bytes
from factory.data.images import SourceImage, list_classes, list_images
from factory.recipe.conditions.base import Series, SeriesInfo
from factory.recipe.recipe import (
    CaptionConditions,
    ClassConditions,
    GivenConditions,
    Recipe,
    ReferenceConditions,
)


def build_series(
    recipe: Recipe, base: Path, catalogs: Catalogs, model_classes: Sequence[str]
) -> tuple[Series, ...]:
    """Builds the series of all condition blocks, in recipe order.

    Args:
        recipe: the recipe.
        base: folder that relative paths start from.
        catalogs: for classes and captions.
        model_classes: the generator's own classes, for blocks that name none.

    Raises:
        SourceError: images or captions that are missing or cannot be read.
        CatalogError: a catalog id that is not known.
    """
    found: list[Series] = []
    for settings in recipe.conditions:
        build = _BUILDERS[settings.kind]
        found.extend(build(settings, recipe.seed, base, catalogs, tuple(model_classes)))
    return tuple(found)


def expand_per_class(per_class: int | dict[str, int], class_names: Sequence[str]) -> dict[str, int]:
    """Returns class -> count for a number (each class) or a mapping (as it is)."""
    if isinstance(per_class, int):
        return dict.fromkeys(class_names, per_class)
    return dict(per_class)


def _build_classes(
    settings: ClassConditions,
    seed: int,
    base: Path,
    catalogs: Catalogs,
    model_classes: tuple[str, ...],
) -> list[Series]:
    from factory.recipe.conditions.class_name import ClassSeries

    names: tuple[str, ...] = model_classes
    if isinstance(settings.classes, str):
        names = tuple(entry.name for entry in catalogs.find_classes(settings.classes).classes)
    elif settings.classes is not None:
        names = settings.classes
    counts = expand_per_class(settings.per_class, names)
    return [ClassSeries(name, count) for name, count in counts.items()]


def _build_captions(
    settings: CaptionConditions,
    seed: int,
    base: Path,
    catalogs: Catalogs,
    model_classes: tuple[str, ...],
) -> list[Series]:
    from factory.catalog.captions.file import read_captions
    from factory.recipe.conditions.caption import GridSeries, ListSeries

    path = base / settings.captions
    if path.is_file():
        captions, classes = read_captions(path, settings.column, settings.class_column)
        return [ListSeries(path.name, captions, classes, settings.count)]
    return [GridSeries(catalogs.find_captions(settings.captions), seed, settings.count)]


def _build_references(
    settings: ReferenceConditions,
    seed: int,
    base: Path,
    catalogs: Catalogs,
    model_classes: tuple[str, ...],
) -> list[Series]:
    from factory.data.records import Reference
    from factory.recipe.conditions.reference import ReferenceSeries, choose_shots

    root = base / settings.images
    images = list_images(
        root,
        image_column=settings.image_column,
        group_column=settings.group_column,
        group_pattern=settings.group_pattern,
    )
    names = list_classes(images)
    counts: dict[str, int] = expand_per_class(settings.per_class, names or ("",))
    found: list[Series] = []
    for name, count in counts.items():
        mine = [image for image in images if (image.class_name or "") == name]
        if not mine:
            has = ", ".join(names) or "no classes"
            raise SourceError(f"{root}: no images of class {name!r}: it has {has}")
        references = tuple(
            Reference(
                image,
                sha256,
                settings.strength,
                settings.fit,
                None if image.group is None else hash_bytes(image.group.encode()),
            )
            for image, sha256 in choose_shots(mine, settings.shots, seed, f"{root} ({name})")
        )
        caption = settings.caption.format(class_name=name) if settings.caption else None
        found.append(ReferenceSeries(name or None, references, caption, count))
    return found


def list_given(settings: GivenConditions, base: Path) -> tuple[SourceImage, ...]:
    """Lists the images of a block of given images.

    Raises:
        SourceError: nothing there, or a column that is missing.
    """
    return list_images(
        base / settings.images,
        image_column=settings.image_column,
        group_column=settings.group_column,
        group_pattern=settings.group_pattern,
        label_column=settings.label_column,
        caption_column=settings.caption_column,
    )


def _build_given(
    settings: GivenConditions,
    seed: int,
    base: Path,
    catalogs: Catalogs,
    model_classes: tuple[str, ...],
) -> list[Series]:
    from factory.recipe.conditions.existing import GivenSeries

    by_class: dict[str, list[SourceImage]] = {}
    for image in list_given(settings, base):
        by_class.setdefault(image.class_name or "", []).append(image)
    return [
        GivenSeries(name or None, tuple(images), len(images), settings.content_sha256)
        for name, images in sorted(by_class.items())
    ]


_BUILDERS: dict[str, Callable[[Any, int, Path, Catalogs, tuple[str, ...]], list[Series]]] = {
    "class": _build_classes,
    "caption": _build_captions,
    "reference": _build_references,
    "given": _build_given,
}

__all__ = ["Series", "SeriesInfo", "build_series", "expand_per_class"]
