"""A patient's own images, where the recipe still finds them, and how files may name them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from factory.core.errors import FactoryError, SourceError
from factory.data.groups import hash_group
from factory.data.images import SourceImage
from factory.engine.forget.touched import Matches
from factory.filters import build_filters
from factory.filters.base import RealImages
from factory.models.session import Session
from factory.recipe.conditions.family_looks import list_domains
from factory.recipe.recipe import Recipe

Place = tuple[Path, int | None, tuple[int, int] | None]
LEAST = 6
"""Characters of a name under which it would be found in much that is none."""


@dataclass(slots=True)
class OwnImages:
    """What is known of somebody's images.

    Attributes:
        groups: hashes of the patients or slides that some are of.
        names: of images and patients, as files may have them.
        keys: of images in their sets.
        hashes: of bytes and pixels.
        compared: filters, and `budget.stop`, that compare with some of them -> how many.
        unread: where images were not found, and why.
    """

    groups: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)
    compared: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)


def find_own_images(recipe: Recipe, session: Session, matches: Matches) -> OwnImages:
    """Looks for a patient's images where the recipe names real images; lists only, but theirs."""
    found = OwnImages()
    sets = list(_list_sets(recipe, session, found))
    mine: dict[Place, SourceImage] = {}
    for image in (each for _, images in sets for each in images):
        group = hash_group(image.group)
        if group is not None and matches([group]):
            found.groups.add(group)
            mine[_place(image)] = image
    for role, images in sets:  # a set may not tell patients, and hold the same files
        theirs = sum(_place(image) in mine for image in images)
        if role and theirs:
            found.compared[role] = theirs
    others = [each for _, images in sets for each in images if _place(each) not in mine]
    for image in mine.values():
        found.keys.add(image.key)
        found.hashes |= {session.images.hash_bytes(image), *_hash_pixels(session, image)}
    found.names = _choose_names(list(mine.values()), others)
    return found


def _place(image: SourceImage) -> Place:
    return image.path.resolve(), image.row, image.span


def _list_sets(
    recipe: Recipe, session: Session, found: OwnImages
) -> Iterator[tuple[str, Sequence[SourceImage]]]:
    """Yields the sets of conditions, and others by who compares with them; notes what is unread."""
    for block in recipe.blocks:
        for one in (*block.list_read(), *block.unlabelled, *list_domains(block)):
            try:
                yield "", one.list(session)
            except FactoryError as error:
                found.unread.append(str(error))
    compared = [
        (f"filter {judge.name}", real)
        for judge in build_filters(recipe.filters, session)
        for real in judge.real_images
    ]
    if (rule := recipe.budget.stop) is not None:
        real = RealImages("images", session.resolve(rule.images), columns=rule.columns)
        compared.append(("budget.stop", real))
    for name, real in compared:
        try:
            yield name, real.list(session)
        except FactoryError as error:
            found.unread.append(str(error))


def _hash_pixels(session: Session, image: SourceImage) -> list[str]:
    try:
        return [session.images.hash_pixels(image)]
    except SourceError:  # no image, such as a mask of 16 bits
        return []


def _choose_names(mine: Sequence[SourceImage], others: Sequence[SourceImage]) -> set[str]:
    """Returns names that tell the patient, and nothing else: of images, and of the patient."""
    elsewhere = " ".join(name for each in others for name in (each.key, str(each.path)))
    names = {name for each in mine for name in (each.key, Path(each.key).name, each.group or "")}
    return {name for name in names if len(name) >= LEAST and name not in elsewhere}
