"""Whose images a trained artefact learned from: `patients.json` beside it, hashes and counts."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from factory.core.errors import DamageError, InputError, MismatchError, SourceError, StoreError
from factory.core.files.atomic import write_file
from factory.data.artefact import Artefact
from factory.data.groups import MARKS, TOLD, hash_group
from factory.data.images import SourceImage, iterate_rows
from factory.data.provenance import read_origin

PATIENTS = "patients.json"
"""Beside weights; beside a single file `NAME.json` it is `NAME.patients`."""


class Patients(Artefact):
    """The patients or slides of the real images that something learned from."""

    groups: tuple[str, ...] = Field(description="hashes of patients or slides, sorted")
    images: int = Field(description="that it learned from, or was chosen or stopped by")
    unknown: int = Field(description="images of them that tell no patient or slide")
    started_from: tuple[str, ...] = Field(
        (), description="models that it went on from, of which it is not known"
    )

    @property
    def is_whole(self) -> bool:
        """Whether it tells of every image, so that who is not named is not in it."""
        return not self.unknown and not self.started_from

    def join(self, other: "Patients | None", name: str) -> "Patients":
        """Returns it with those of the model that a training went on from, called `name`."""
        if other is None:
            return self.model_copy(update={"started_from": (*self.started_from, name)})
        return Patients(
            version=1,
            groups=tuple(sorted({*self.groups, *other.groups})),
            images=self.images + other.images,
            unknown=self.unknown + other.unknown,
            started_from=(*self.started_from, *other.started_from),
        )


def list_patients(images: Sequence[SourceImage]) -> Patients:
    """Returns whose images these are; rows of factory may come from several patients.

    Raises:
        SourceError: a file that cannot be read, or a row whose provenance is damaged.
    """
    groups = {hash_group(image.group) for image in images} - {None}
    left = [image for image in images if image.group is None]
    unknown = 0
    for image, cells in zip(left, iterate_rows(left, (*MARKS, *TOLD)), strict=True):
        told: set[str] = set()
        if cells.keys() >= MARKS:
            try:
                told = {*read_origin(cells, image.place).groups}
            except StoreError as error:
                raise SourceError(str(error)) from error
            told |= {str(cells["group_sha256"])} if cells.get("group_sha256") else set()
        groups |= told
        unknown += not told
    return describe_patients([str(each) for each in groups], len(images), unknown)


def describe_patients(groups: Sequence[str | None], images: int, unknown: int) -> Patients:
    """Returns the record of hashes of patients or slides, None of those that are not known."""
    known = tuple(sorted({each for each in groups if each is not None}))
    return Patients(version=1, groups=known, images=images, unknown=unknown)


def write_patients(patients: Patients, artefact: Path) -> None:
    """Writes the record beside an artefact, a folder or a file `NAME.json`."""
    write_file(_find_place(artefact), patients.dump())


def read_patients(artefact: Path) -> Patients | None:
    """Returns the record of an artefact; None where it has none, as of an earlier version.

    Raises:
        InputError: a damaged record, or one of a newer version.
    """
    place = _find_place(artefact)
    if not place.is_file():
        return None
    try:
        return Patients.parse(place.read_bytes())
    except (DamageError, MismatchError, OSError) as error:
        raise InputError(f"{place}: {error}: train again, or bring it back from a copy") from error


def _find_place(artefact: Path) -> Path:
    if artefact.suffix == ".json":
        return artefact.with_suffix(".patients")
    return artefact / PATIENTS
