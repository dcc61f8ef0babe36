"""Checks of a classifier that a recipe names: it is there, knows the classes, suits the size."""

from dataclasses import dataclass
from pathlib import Path

from factory.catalog.checker import Checker
from factory.core.errors import CatalogError, FactoryError, InputError, RecipeError
from factory.core.notes import tell
from factory.core.yaml.reader import FieldPath
from factory.data.images.fit import LEAST_SHARE, describe_crop
from factory.models.classifiers.model import ClassifierInfo, check_classifier


@dataclass(frozen=True, slots=True)
class KnownClassifier:
    """The classes of a classifier, and what its folder says; None where not to be read."""

    class_names: tuple[str, ...]
    info: ClassifierInfo | None = None


def check_known(checker: Checker, name: str, path: FieldPath) -> KnownClassifier | None:
    """Returns a classifier, or None with the problem noted or where nothing is to be read.

    Classes that are asked for and that it does not know are noted too.
    """
    try:
        known = _read_known(checker, name)
    except CatalogError as error:
        checker.add(path, f"no classifier folder and {error}")
        return None
    except RecipeError as error:
        checker.problems.extend(error.problems)
        return None
    except FactoryError as error:
        checker.add(path, str(error))
        return None
    if known is not None:
        checker.check_asked(f"classifier {name}", known.class_names)
        if known.info is not None and checker.pixels is not None:
            _tell_fit(name, known.info, checker.pixels)
    return known


def _tell_fit(name: str, info: ClassifierInfo, pixels: tuple[int, int]) -> None:
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


def _read_known(checker: Checker, name: str) -> KnownClassifier | None:
    """Reads a classifier by catalog id or folder; None where it is not to be read.

    Raises:
        CatalogError: neither a folder nor a catalog id.
        RecipeError: its catalog file is wrong.
        InputError: a folder that holds no classifier, or a damaged one.
    """
    folder = checker.resolve(name)
    if name in checker.catalogs.list_ids("classifiers"):
        entry = checker.catalogs.find_classifier(name)
        info = _read_folder(Path(entry.source)) if checker.check_files else None
        return KnownClassifier(entry.class_names, info)
    if not checker.check_files and ("/" in name or folder.is_dir()):
        return None
    if not folder.is_dir() and "/" not in name:
        return KnownClassifier(checker.catalogs.find_classifier(name).class_names)
    info = _read_folder(folder)
    return KnownClassifier(info.class_names, info)


def _read_folder(folder: Path) -> ClassifierInfo:
    if not folder.is_dir():
        raise InputError(f"no such classifier folder {str(folder)!r}: correct the path")
    try:
        return check_classifier(folder)
    except RecipeError as error:
        more = len(error.problems) - 1
        also = f" and {more} more" if more else ""
        do = "make it anew with `factory train classifier`"
        raise InputError(f"{error.problems[0]}{also}: {do}") from error
