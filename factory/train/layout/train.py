"""`train_layout`: reads masks, fits a pattern to each class, and writes the layout's file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from factory.catalog.entries import LicenceTerms
from factory.core.errors import InputError, SourceError
from factory.core.files.atomic import write_file
from factory.data.images import SourceImage, list_images
from factory.data.label_maps import decode_labels, list_unknown
from factory.data.layouts import Layout
from factory.data.objects import Objects, find_objects
from factory.data.patients import list_patients, write_patients
from factory.train.layout.fit import fit_pattern
from factory.train.layout.settings import LayoutSettings

ALL = "all"
"""The pattern of masks without classes."""


def train_layout(
    data: Path, out: Path, settings: LayoutSettings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fits a layout to masks, and writes it.

    Args:
        data: folder of label maps, a folder for each class; or parquet, tars.
        out: its file, `NAME.json`.
        settings: of the fit.
        say: called with a line a round.

    Returns:
        Class -> measure -> distance to the real masks, and their own (`floor`).

    Raises:
        SourceError: masks that cannot be read, differ in size, or are too few.
        InputError: `out` is there, a class that is not, or terms without the date.
    """
    if out.exists():
        raise InputError(f"{out}: is there already: name another file, or remove it")
    licence = _read_licence(settings)
    palette = {str(number + 1): name for number, name in enumerate(settings.names)}
    chosen = _choose_masks(data, settings)
    by_class = _read_masks(chosen, settings)
    size = next(iter(by_class.values()))[0].size
    gap = 0 if settings.values != "ids" else 1
    patterns = {
        name: fit_pattern(found, gap, settings, name, say) for name, found in by_class.items()
    }
    layout = Layout(
        name=out.stem,
        palette=palette,
        gap=gap,
        mpp=settings.mpp,
        window=size,
        source=settings.source,
        licence=licence,
        patterns=patterns,
    )
    write_patients(list_patients([each for mine in chosen.values() for each in mine]), out)
    write_file(out, layout.dump())
    return {name: dict(pattern.measured) for name, pattern in patterns.items()}


def _read_licence(settings: LayoutSettings) -> dict[str, Any] | None:
    if settings.licence is None:
        return None
    if settings.date_read is None:
        raise InputError("--date-read: say when you read the licence, as YYYY-MM-DD")
    terms = LicenceTerms(
        id=settings.licence, date_read=settings.date_read, attribution=settings.attribution
    )
    return terms.model_dump(mode="json", exclude_defaults=True)


def _choose_masks(data: Path, settings: LayoutSettings) -> dict[str, list[SourceImage]]:
    """Returns class -> its masks, so many as are read.

    Raises:
        SourceError: a folder that cannot be read.
        InputError: a class that is not there.
    """
    images: dict[str, list[SourceImage]] = {}
    column, label = settings.mask_column, settings.label_column
    for image in list_images(data, image_column=column, label_column=label):
        images.setdefault(image.class_name or ALL, []).append(image)
    for name in settings.classes:
        if name not in images:
            raise InputError(f"--class: {data} has no {name!r}: it has {', '.join(images)}")
    names = settings.classes or sorted(images)
    return {name: images[name][: settings.most_masks] for name in names}


def _read_masks(
    chosen: Mapping[str, list[SourceImage]], settings: LayoutSettings
) -> dict[str, list[Objects]]:
    """Returns class -> the objects of its masks.

    Raises:
        SourceError: masks that cannot be read, of other ids or sizes.
    """
    found: dict[str, list[Objects]] = {}
    first: tuple[tuple[int, int], str] | None = None
    for name, images in chosen.items():
        for image in images:
            objects = _read_objects(image, settings)
            first = first or (objects.size, image.place)
            if objects.size != first[0]:
                raise SourceError(
                    f"{image.place}: {objects.size[0]} x {objects.size[1]} px, but {first[1]} has "
                    f"{first[0][0]} x {first[0][1]}: cut all masks to one size"
                )
            found.setdefault(name, []).append(objects)
    return found


def _read_objects(image: SourceImage, settings: LayoutSettings) -> Objects:
    labels = decode_labels(image.read_bytes(), image.place)
    if settings.values == "objects":
        labels = labels.astype("uint32")
        labels[labels > 0] += 1000
        return find_objects(labels, True)
    palette = tuple((number + 1, name) for number, name in enumerate(settings.names))
    is_coded = settings.values == "coded"
    unknown = list_unknown(labels // 1000 if is_coded else labels, palette)
    if unknown:
        raise SourceError(
            f"{image.place}: has the id {unknown[0]}, but --name gives {len(palette)}: name all, "
            "or take --values objects where it numbers objects"
        )
    return find_objects(labels, is_coded)
