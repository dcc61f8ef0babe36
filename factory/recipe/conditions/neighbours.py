"""Neighbour conditions: variations of unlabelled images, of the class of the nearest shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import Field

from factory.catalog.entries import PositiveFraction
from factory.core.errors import SourceError
from factory.core.fields import Pixels
from factory.core.late import NDArray, np
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage, check_fit
from factory.data.rows import ARRAY
from factory.data.streams import ClassName, Reference
from factory.models.encoders.check import check_encoder
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    Identity,
    Planning,
    expand_per_class,
)
from factory.recipe.conditions.encoded import EncodedRows
from factory.recipe.conditions.looks import Unlabelled, rank_images
from factory.recipe.conditions.prototypes import Prototypes, choose_medoids
from factory.recipe.conditions.reference import ReferenceSeries
from factory.recipe.conditions.shots import Chosen, ShotKind, ShotSettings, label_shots

Features: TypeAlias = "NDArray[np.float64]"


class Pool(Unlabelled):
    """Real images of which no class is read, to look for neighbours in."""

    most: int = Field(1024, ge=1, le=1_000_000, description="looked at, chosen by seed")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image of the pool: its row, the nearest shot, and how much farther other classes are.

    `ratio` is the distance to that shot over that to the nearest shot of another class.
    """

    row: int
    shot: int
    ratio: float


def find_neighbours(
    pool: Features, shots: Features, classes: Sequence[str], near: int
) -> dict[str, list[Neighbour]]:
    """Gives each image of a pool the class of its nearest shot; the surest of each class first.

    Surest by the ratio of distances to the nearest and the nearest of another class (Lowe 2004,
    Distinctive image features from scale-invariant keypoints, section 7.1), on features that are
    standardised over the pool.

    Args:
        pool: (N, D).
        shots: (S, D).
        classes: (S,) of the shots, two or more.
        near: most of each class.
    """
    scale = pool.std(0)
    scale[scale == 0] = 1.0
    names = np.array(classes)
    found: dict[str, list[Neighbour]] = {name: [] for name in dict.fromkeys(classes)}
    for row, image in enumerate(pool):
        each = np.linalg.norm((image - shots) / scale, axis=1)
        shot = int(each.argmin())
        other = each[names != names[shot]].min()
        found[classes[shot]].append(Neighbour(row, shot, float(each[shot] / max(other, 1e-12))))
    return {
        name: sorted(mine, key=lambda one: (one.ratio, one.row))[:near]
        for name, mine in found.items()
    }


class NeighbourConditions(ShotKind):
    """Variations of unlabelled images that lie near the labelled ones of a class."""

    streams = (Reference, ClassName)

    class Settings(ShotSettings):
        kind: Literal["neighbours"]
        unlabelled: Pool = Field(description="where neighbours are looked for")
        encoder: str = Field(min_length=1, description="whose features tell what is near")
        near: int = Field(
            32, ge=1, le=100_000, description="of each class: those that other classes are farthest"
        )
        medoids: int | None = Field(
            None, ge=1, le=4096, description="of clusters of these; default: all of them"
        )
        size: Pixels = Field(64, description="px of the square that is encoded, by fit")
        strength: PositiveFraction = Field(0.4, description="share of the path run again")
        fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")

    settings: Settings

    @property
    def encoders(self) -> tuple[str, ...]:
        """What tells neighbours."""
        return (self.settings.encoder,)

    @property
    def unlabelled(self) -> tuple[BlockImages, ...]:
        """Those that neighbours are looked for in."""
        return (replace(self.settings.unlabelled.block, fit=self.settings.fit),)

    def list_read(self) -> Sequence[BlockImages]:
        """Returns where shots and neighbours are."""
        return (self.images, *self.unlabelled)

    def build_series(self, planning: Planning) -> list[ReferenceSeries]:
        """Returns one series for each class.

        Raises:
            SourceError: images that cannot be read or are too few, or a class without neighbours.
        """
        settings, session = self.settings, planning.session
        of_classes = self.choose(session, planning.seed)
        counts = expand_per_class(settings.per_class, tuple(of_classes))
        found = []
        for name, references in self._find(of_classes, planning).items():
            if not references:
                place = session.resolve(settings.unlabelled.images)
                raise SourceError(
                    f"{place}: neighbours: none lies nearest to a shot of class {name!r}: raise "
                    "unlabelled.most, or give more images"
                )
            found.append(ReferenceSeries(name, references, None, counts[name]))
        return found

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing or too few, and an encoder that is not there."""
        settings = self.settings
        check_encoder(findings, settings.encoder, (*path, "encoder"))
        findings.check_strength(settings.strength, None, path)
        names = self.check_block(findings, path)
        if findings.check_files and len(names) < 2:
            findings.add((*path, "per_class"), "neighbours are told by two classes or more")
        place: FieldPath = (*path, "unlabelled")
        if settings.unlabelled.check(findings, place) and findings.pixels is not None:
            pool, session = settings.unlabelled.block, findings.loaded.session
            root, read_size = session.resolve(pool.path), session.images.read_size
            try:
                check_fit(pool.list(session), *findings.pixels, settings.fit, root, read_size)
            except SourceError as error:
                findings.add((*place, "images"), str(error))
        given = (str(settings.images), "at strength", f"{settings.strength:g}", "of class")
        return [("neighbours", *given, name) for name in names or ("",)]

    def _find(
        self, of_classes: Mapping[str, tuple[Chosen, ...]], planning: Planning
    ) -> dict[str, tuple[Reference, ...]]:
        """Returns what is varied of each class, the surest first."""
        settings, session, reader = self.settings, planning.session, planning.session.images
        chosen = [each for mine in of_classes.values() for each in mine]
        shots = [image for image, _ in chosen]
        classes = [name for name, mine in of_classes.items() for _ in mine]
        known = {reader.hash_pixels(image) for image in shots}
        ranked = rank_images(settings.unlabelled.block, session, planning.seed)
        seen = [image for image, _ in ranked[: settings.unlabelled.most]]
        pool = [image for image in seen if reader.hash_pixels(image) not in known]
        if not pool:
            place = session.resolve(settings.unlabelled.images)
            raise SourceError(
                f"{place}: neighbours: holds shots alone: give images of other slides"
            )
        near = find_neighbours(
            self._encode(pool, session), self._encode(shots, session), classes, settings.near
        )
        labelled = label_shots(chosen, session)
        return {
            name: tuple(
                replace(self._vary(image, session), shots=(labelled[one.shot],))
                for one, image in self._thin(name, mine, pool, planning)
            )
            for name, mine in near.items()
        }

    def _thin(
        self,
        name: str,
        near: Sequence[Neighbour],
        pool: Sequence[SourceImage],
        planning: Planning,
    ) -> list[tuple[Neighbour, SourceImage]]:
        """Returns neighbours with their images: all, or the medoids of clusters of them."""
        pairs = [(one, pool[one.row]) for one in near]
        most = self.settings.medoids
        if most is None or len(pairs) <= most:
            return pairs
        chosen = Prototypes(per_class=most, encoder=self.settings.encoder, patients="mixed")
        root = planning.session.resolve(self.settings.unlabelled.images)
        images = [image for _, image in pairs]
        medoids = choose_medoids(
            chosen, images, name, root, planning.session, planning.seed, fitted=self._fitted
        )
        kept = [medoid.image for medoid in medoids]
        return [pair for pair in pairs if pair[1] in kept]

    @property
    def _fitted(self) -> tuple[int, str]:
        return self.settings.size, self.settings.fit

    def _vary(self, image: SourceImage, session: Session) -> Reference:
        sha256, [group] = session.images.hash_bytes(image), read_groups([image])
        return Reference(image, sha256, self.settings.strength, self.settings.fit, group)

    def _encode(self, images: Sequence[SourceImage], session: Session) -> Features:
        """Returns (N, D) features."""
        root = session.resolve(self.settings.images)
        rows = EncodedRows(root, images, session, self.settings.encoder, fitted=self._fitted)
        found = [rows.read(row, [ARRAY])[ARRAY] for row in range(len(rows))]
        return np.concatenate(found).astype(np.float64)
