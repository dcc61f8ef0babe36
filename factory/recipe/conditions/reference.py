"""Reference conditions: variations of a few real images of each class."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import PositiveFraction
from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage
from factory.data.records import Condition, Request
from factory.data.streams import Caption, ClassName, Reference
from factory.data.streams.prototype import Prototype
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    Identity,
    Planning,
    expand_per_class,
)
from factory.recipe.conditions.looks import Stains, pair_all
from factory.recipe.conditions.prototypes import (
    Prototypes,
    PrototypeSeries,
    check_prototypes,
    choose_medoids,
)
from factory.recipe.conditions.series import QUOTAS, OneClass, Series, find_quotas
from factory.recipe.conditions.shots import ShotKind, ShotSettings, check_shots, group_by_class


@dataclass(frozen=True)
class ReferenceSeries(OneClass):
    """Variations of one class's references, taken in turn; so do the attempts of one request.

    The ordinal is the index in the series, so that no two tries share condition, ordinal and
    attempt.
    """

    class_name: str | None
    references: tuple[Reference, ...]
    caption: str | None
    count: int
    max_share_per_shot: float | None = None
    max_share_per_group: float | None = None
    origin = "(references)"

    @functools.cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """One condition for each reference, in rank order."""
        return tuple(
            Condition(self.class_name, self.caption, reference) for reference in self.references
        )

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its conditions in order, and the quota where there is one."""
        content: dict[str, Any] = {
            "kind": "reference",
            "conditions": [condition.describe() for condition in self.conditions],
        }
        content |= find_quotas(self)
        return compute_digest("series", content)[:16]

    @property
    def details(self) -> tuple[str, ...]:
        """What people are told of it beside its label and count."""
        whose = {"max_share_per_shot": "shot", "max_share_per_group": "patient or slide"}
        return tuple(
            f"no {whose[name]} gives more than {most:.4g} of what is asked for, rounded up"
            for name, most in find_quotas(self).items()
        )

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: it starts with reference `index` modulo their number."""
        condition = self.conditions[index % len(self.conditions)]
        return Request(self.key, index, condition, index, self.conditions)


class ReferenceConditions(ShotKind):
    """Variations of real images (image-to-image)."""

    streams = (Reference, ClassName, Caption)

    class Settings(ShotSettings):
        kind: Literal["reference"]
        prototypes: Prototypes | None = Field(
            None, description="instead of shots: medoids of clusters of each class"
        )
        max_share_per_shot: PositiveFraction | None = Field(
            None,
            description="most images asked for of a class that vary one shot: a share, rounded up",
        )
        max_share_per_group: PositiveFraction | None = Field(
            None, description="likewise that vary shots of one patient or slide"
        )
        stains: Stains | None = Field(
            None, description="of unlabelled images, which shots are given before they are varied"
        )
        strength: PositiveFraction = Field(0.6, description="share of the path run again")
        fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")
        caption: str | None = Field(None, description="prompt for text models, with {class_name}")

        @model_validator(mode="after")
        def _check_choice(self) -> Self:
            if self.prototypes is not None:
                if self.shots is not None:
                    raise ValueError("takes either shots or prototypes: remove one of them")
                if self.prototypes.encoder is None:
                    raise ValueError("prototypes.encoder: name whose features are clustered")
                for name in QUOTAS:
                    if getattr(self, name) is not None:
                        raise ValueError(
                            f"{name}: a request keeps to its prototype, so that shares are fixed "
                            "already: remove it"
                        )
                if self.stains is not None:
                    raise ValueError("stains: are given to shots, not to prototypes: remove one")
            return self

    settings: Settings

    @property
    def encoders(self) -> tuple[str, ...]:
        """What chooses prototypes."""
        chosen = self.settings.prototypes
        return () if chosen is None or chosen.encoder is None else (chosen.encoder,)

    @property
    def unlabelled(self) -> tuple[BlockImages, ...]:
        """Those that stains are measured of."""
        stains = self.settings.stains
        return () if stains is None else (stains.block,)

    def build_series(self, planning: Planning) -> list[Series]:
        """Returns one series for each class.

        Raises:
            SourceError: images that cannot be read, too few, or none of a class.
        """
        prototypes = self.settings.prototypes
        made = self._vary(planning) if prototypes is None else self._cluster(prototypes, planning)
        return list(made)

    def _vary(self, planning: Planning) -> Iterator[Series]:
        """Yields the series of each class that varies shots."""
        settings, session = self.settings, planning.session
        told = settings.stains
        stains = [None] if told is None else list(told.measure(session, planning.seed))
        of_classes = self.choose(session, planning.seed)
        counts = expand_per_class(settings.per_class, tuple(of_classes))
        for name, chosen in of_classes.items():
            groups = read_groups([image for image, _ in chosen])
            plain = [
                Reference(image, sha256, settings.strength, settings.fit, group)
                for (image, sha256), group in zip(chosen, groups, strict=True)
            ]
            references = tuple(
                replace(plain[shot], stain=stains[look])
                for shot, look in pair_all(len(plain), len(stains))
            )
            quotas = (settings.max_share_per_shot, settings.max_share_per_group)
            caption = self._write_caption(name)
            yield ReferenceSeries(name or None, references, caption, counts[name], *quotas)

    def _cluster(self, prototypes: Prototypes, planning: Planning) -> Iterator[Series]:
        """Yields the series of each class that varies medoids of clusters."""
        per_class, session = self.settings.per_class, planning.session
        root = session.resolve(self.images.path)
        of_classes = group_by_class(self.images.list(session), per_class, root)
        counts = expand_per_class(per_class, tuple(of_classes))
        for name, mine in of_classes.items():
            held, chosen = self._choose(prototypes, mine, self._write_caption(name), planning)
            order, count = prototypes.order, counts[name]
            yield PrototypeSeries(self.kind, name or None, held, chosen, order, count)

    def _write_caption(self, name: str) -> str | None:
        caption: str | None = self.settings.caption
        return caption.format(class_name=name) if caption else None

    def _choose(
        self,
        chosen: Prototypes,
        images: Sequence[SourceImage],
        caption: str | None,
        planning: Planning,
    ) -> tuple[tuple[Condition, ...], tuple[Prototype, ...]]:
        """Returns what prototypes of one class ask for; raises as `choose_medoids`."""
        session, name = planning.session, images[0].class_name
        root, found = session.resolve(self.images.path), []
        medoids = choose_medoids(chosen, images, name, root, session, planning.seed)
        for medoid in medoids:
            plain = Reference(
                medoid.image,
                session.images.hash_bytes(medoid.image),
                self.settings.strength,
                self.settings.fit,
                medoid.group_sha256,
                medoid.prototype,
            )
            found.append(Condition(name, caption, plain))
        return tuple(found), tuple(medoid.prototype for medoid in medoids)

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing or too few, classes they lack, and a prompt not taken."""
        settings = self.settings
        findings.check_prompt(settings.caption, (*path, "caption"))
        findings.check_strength(settings.strength, None, path)
        given = (settings.per_class, settings.shots, settings.fit)
        counts, names = check_shots(findings, path, self.images, *given)
        place: FieldPath = (*path, "per_class")
        keyed = not isinstance(settings.per_class, int)
        if settings.prototypes is not None:
            listed = None if counts is None else self.images.list(findings.loaded.session)
            asked = names or None
            check_prototypes(findings, path, settings.prototypes, listed, asked)
        self._check_quota(findings, path, counts, names)
        if settings.stains is not None:
            settings.stains.check(findings, (*path, "stains"))
        findings.asked.add(names, place, keyed=keyed)
        identity = ("images", str(settings.images), "at strength", f"{settings.strength:g}")
        return [(*identity, "of class", name) for name in names] if names else [identity]

    def _check_quota(
        self,
        findings: Findings,
        path: FieldPath,
        counts: Mapping[str, int] | None,
        names: Sequence[str],
    ) -> None:
        """Notes a quota by which the shots cannot fill a class, and one that a pick would undo."""
        settings, limits = self.settings, find_quotas(self.settings)
        for field, most in limits.items():
            place = (*path, field)
            if findings.loaded.recipe.pick is not None:
                findings.add(place, "pick keeps what the quota does not count: remove one of them")
            by_group = field == "max_share_per_group"
            owners = self._count_groups(findings, place) if by_group and counts else counts
            for name in names or ("",):
                has = (owners or {}).get(name)
                has = min(has or settings.shots or 0, settings.shots or has or 0)
                if has and has * most < 1 - 1e-9:
                    of = f" of class {name}" if name else ""
                    what = "patients or slides" if by_group else "shots"
                    text = f"{has} {what}{of} can fill {has * most:.0%} at most"
                    findings.add(place, f"{text}: at least {1 / has:.3g}, got {most:g}")

    def _count_groups(self, findings: Findings, place: FieldPath) -> Mapping[str, int]:
        """Returns class -> patients or slides of its images; notes images that tell none."""
        images = self.images.list(findings.loaded.session)
        found: dict[str, set[str]] = {}
        unknown = 0
        for image, group in zip(images, read_groups(images), strict=True):
            unknown += group is None
            found.setdefault(image.class_name or "", set()).update([group] if group else [])
        if unknown:
            findings.add(
                place,
                f"of {unknown:,} images no patient or slide is known: set group_column or "
                "group_pattern",
            )
            return {}
        return {name: len(groups) for name, groups in found.items()}
