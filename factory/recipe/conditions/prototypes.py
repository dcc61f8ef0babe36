"""Prototypes: medoids of the real images of a class, in the space of an encoder, as conditions."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.catalog.entries import Strict
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, derive_seed
from factory.core.late import np
from factory.core.stats.clusters import find_clusters
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage
from factory.data.records import Condition, Request
from factory.data.rows import ARRAY
from factory.data.streams.prototype import ATTRIBUTE, Prototype
from factory.models.encoders.check import check_encoder
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.encoded import EncodedRows
from factory.recipe.conditions.series import OneClass


class Prototypes(Strict):
    """Medoids of clusters of real images, instead of all of them."""

    per_class: int = Field(ge=1, le=4096, description="clusters of the images of each class")
    encoder: str | None = Field(
        None, min_length=1, description="whose features are clustered; default: the block's"
    )
    order: Literal["balanced", "rare_first"] = Field(
        "balanced",
        description="balanced: each as often; rare_first: the smallest clusters until real and "
        "accepted images together are level, then each as often",
    )
    patients: Literal["whole", "mixed"] = Field(
        "whole", description="whole: no patient or slide lies in two clusters"
    )


@dataclass(frozen=True, slots=True)
class Medoid:
    """A prototype, the image that it is, and the hash of the image's patient or slide."""

    prototype: Prototype
    image: SourceImage
    group_sha256: str | None


@dataclass(frozen=True)
class PrototypeSeries(OneClass):
    """Images of the prototypes of one class; all tries of a request keep to its prototype.

    A request's ordinal counts those of its prototype alone: another order, or more of it, leaves
    images as they are.
    """

    kind: str
    class_name: str | None
    conditions: tuple[Condition, ...]
    prototypes: tuple[Prototype, ...]
    order: str
    count: int

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its conditions, and in which order they are asked for."""
        content = {
            "kind": f"{self.kind} prototypes",
            "conditions": [condition.describe() for condition in self.conditions],
            "fill": self._fill if self.order == "rare_first" else (),
        }
        return compute_digest("series", content)[:16]

    @property
    def label(self) -> str:
        """The class, or what it is made from."""
        return f"{self.class_name or 'images'} ({self.kind} prototypes)"

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """The share of each prototype in `count` images."""
        of = range(len(self.prototypes))
        counts = [self.rank(place, self.count) for place in of]
        row = {self.prototypes[place].id: counts[place] / self.count for place in of}
        return {ATTRIBUTE: row}

    @property
    def details(self) -> tuple[str, ...]:
        """What people are told of it beside its label and count."""
        first = self.prototypes[0]
        names = "; ".join(each.describe() for each in self.prototypes)
        return (f"{len(self.prototypes)} by {first.encoder}, {self.order}: {names}",)

    @functools.cached_property
    def _rising(self) -> tuple[int, ...]:
        """Places of the prototypes, the smallest cluster first."""
        of = range(len(self.prototypes))
        return tuple(sorted(of, key=lambda place: (self.prototypes[place].size, -place)))

    @functools.cached_property
    def _fill(self) -> tuple[int, ...]:
        """Requests before stage j, in which the j + 1 smallest clusters grow to the next size."""
        sizes = [self.prototypes[place].size for place in self._rising]
        steps = [
            (low + 1) * (after - before)
            for low, (before, after) in enumerate(itertools.pairwise(sizes))
        ]
        return (0, *itertools.accumulate(steps))

    def place_at(self, index: int) -> int:
        """Returns the prototype of the `index`-th request."""
        if self.order == "balanced":
            return index % len(self.prototypes)
        stage = bisect.bisect_right(self._fill, index) - 1
        return self._rising[(index - self._fill[stage]) % (stage + 1)]

    def rank(self, place: int, index: int) -> int:
        """Returns how many requests before the `index`-th are of a prototype."""
        if self.order == "balanced":
            return (index - place + len(self.prototypes) - 1) // len(self.prototypes)
        found, turn = 0, self._rising.index(place)
        for stage, start in enumerate(self._fill):
            stop = self._fill[stage + 1] if stage + 1 < len(self._fill) else index
            done = min(index, stop) - start
            if done > 0 and stage >= turn:
                found += (done - turn + stage) // (stage + 1)
        return found

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        place = self.place_at(index)
        return Request(self.key, index, self.conditions[place], self.rank(place, index))


def choose_medoids(
    settings: Prototypes,
    images: Sequence[SourceImage],
    class_name: str | None,
    root: Path,
    session: Session,
    seed: int,
    default: str = "",
    fitted: tuple[int, str] | None = None,
) -> tuple[Medoid, ...]:
    """Clusters the images of a class; those of equal pixels count once, and no order matters.

    `default` is the encoder where the settings name none, `fitted` as of `EncodedRows`.

    Raises:
        SourceError: an image that cannot be read, or fewer images or patients than prototypes.
    """
    encoder = settings.encoder or default
    reader, unique = session.images, dict[str, SourceImage]()
    for image in sorted(images, key=lambda each: (reader.hash_bytes(each), each.group or "")):
        unique.setdefault(reader.hash_pixels(image), image)
    names = sorted(unique)
    listed = [unique[name] for name in names]
    groups = read_groups(listed)
    units = [group or name for group, name in zip(groups, names, strict=True)]
    rows = EncodedRows(root, listed, session, encoder, fitted=fitted)
    features = np.concatenate([rows.read(row, [ARRAY])[ARRAY] for row in range(len(listed))])
    cut = names if settings.patients == "mixed" else units
    key = derive_seed(seed, "prototypes", class_name or "")
    clusters = find_clusters(features, cut, settings.per_class, key)
    if len(clusters) < settings.per_class:
        what = "different images" if settings.patients == "mixed" else "patients, slides or images"
        of = f" of class {class_name}" if class_name else ""
        raise SourceError(
            f"{root}: prototypes: {settings.per_class} asked for, but {encoder} tells only "
            f"{len(clusters)} {what}{of} apart: lower per_class"
        )
    return tuple(
        Medoid(
            Prototype(
                f"{class_name or ATTRIBUTE}-{number}",
                names[each.medoid],
                len(each.rows),
                _count_patients([groups[row] for row in each.rows]),
                encoder,
            ),
            listed[each.medoid],
            groups[each.medoid],
        )
        for number, each in enumerate(clusters, 1)
    )


def _count_patients(groups: Sequence[str | None]) -> int | None:
    return None if None in groups else len(set(groups))


def check_prototypes(
    findings: Findings,
    path: FieldPath,
    settings: Prototypes,
    images: Sequence[SourceImage] | None,
    asked: Sequence[str] | None = None,
) -> None:
    """Notes an encoder that is not there, and classes of too few images or patients.

    Args:
        findings: what is wrong.
        path: of the block.
        settings: as the block has them.
        images: all of the block; None: they are not known.
        asked: the classes that are asked for; None: all.
    """
    place: FieldPath = (*path, "prototypes")
    if settings.encoder is not None:
        check_encoder(findings, settings.encoder, (*place, "encoder"))
    units: dict[str, set[object]] = {}
    for image in images or ():
        unit = image.group if settings.patients == "whole" else None
        units.setdefault(image.class_name or "", set()).add(unit or image)
    for name, found in units.items():
        if len(found) < settings.per_class and (asked is None or name in asked):
            of = f" of class {name}" if name else ""
            what = "images" if settings.patients == "mixed" else "patients, slides or images"
            message = f"{settings.per_class} asked for, but there are {len(found)} {what}{of}"
            findings.add((*place, "per_class"), f"{message}: lower it")
