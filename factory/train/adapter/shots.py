"""The few real images of each class that a model is adapted to, and the words for the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.data.artefact import Artefact
from factory.data.groups import hash_group
from factory.data.images import SourceImage, list_classes, list_images, read_fitted
from factory.recipe.conditions.shots import choose_shots
from factory.train.adapter.settings import AdapterSettings


class AdaptationRecord(Artefact):
    """`training/settings.json` beside an adapter: what it was begun with.

    Attributes:
        chosen: `digest_shots` of its shots.
    """

    chosen: str


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to adapt to; `group_sha256` is the hash of its patient or slide."""

    image: SourceImage
    class_name: str
    sha256: str
    group_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """Returns its identity as plain data; no file name, which may tell the patient."""
        return {
            "class_name": self.class_name,
            "sha256": self.sha256,
            "group_sha256": self.group_sha256,
        }


def choose_all_shots(settings: AdapterSettings) -> tuple[Shot, ...]:
    """Chooses the shots of every class as reference conditions do: by seed, groups taking turns.

    Raises:
        SourceError: images without a class, too few of a class (all of them told at once), or a
            shot that cannot be read.
    """
    root = settings.data
    images = list_images(
        root,
        image_column=settings.image_column,
        group_column=settings.group_column,
        group_pattern=settings.group_pattern,
    )
    without = next((image.key for image in images if image.class_name is None), None)
    if without is not None:
        raise SourceError(f"{root}: {without} has no class: put it into a folder of its class")
    chosen: list[Shot] = []
    problems: list[str] = []
    for name in list_classes(images):
        mine = [image for image in images if image.class_name == name]
        try:
            found = choose_shots(mine, settings.shots, settings.seed, f"{root} ({name})")
        except SourceError as error:
            problems.append(str(error))
            continue
        for image, sha256 in found:
            chosen.append(Shot(image, name, sha256, hash_group(image.group)))
    if problems:
        raise SourceError("\n".join(problems))
    return tuple(chosen)


def digest_shots(shots: Sequence[Shot]) -> str:
    """Returns the identity of shots in order, as the record of an adaptation names it."""
    return compute_digest("shots", [shot.to_json() for shot in shots])[:16]


def read_shots(shots: tuple[Shot, ...], width: int, height: int, fit: str) -> NDArray[np.uint8]:
    """Reads the shots as the model will see them, (N, height, width, 3) uint8 RGB.

    Raises:
        SourceError: a shot that cannot be read any more.
    """
    return np.stack([read_fitted(shot.image, width, height, fit) for shot in shots])


def choose_words(
    class_names: tuple[str, ...], settings: AdapterSettings, catalogs: Catalogs
) -> Mapping[str, str]:
    """Returns class -> words for prompts: a catalog's titles, else the names without underscores.

    Raises:
        CatalogError: no such set of classes.
        SourceError: a class of the data that the set does not have.
    """
    if settings.classes is None:
        return {name: name.replace("_", " ") for name in class_names}
    titles = {entry.name: entry.title for entry in catalogs.find_classes(settings.classes).classes}
    unknown = [name for name in class_names if name not in titles]
    if unknown:
        raise SourceError(
            f"{settings.data}: class {unknown[0]!r} is not in the catalog {settings.classes}: "
            f"{advise(unknown[0], tuple(titles))}"
        )
    return {name: titles[name] for name in class_names}
