"""Translate conditions: real images as they would look in another stain, scanner or preparation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import ClassName as ClassWord
from factory.catalog.entries import PositiveFraction
from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage
from factory.data.records import Condition
from factory.data.streams import Caption, ClassName, Control, Domain, Source, Stream
from factory.data.streams.source import Injection, Method, Translation
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    ConditionKind,
    Count,
    Identity,
    ImageSettings,
    PerClass,
    Planning,
    expand_per_class,
)
from factory.recipe.conditions.looks import pair_all
from factory.recipe.conditions.series import Series
from factory.recipe.conditions.shots import Chosen, check_shots, choose_by_class
from factory.recipe.conditions.translate_masks import check_masks, find_masks
from factory.recipe.conditions.translate_series import RestyleSeries, TranslateSeries
from factory.recipe.conditions.translate_target import (
    Inject,
    Target,
    Text,
    check_images,
    choose_images,
)

_STRENGTH = {"invert": 1.0, "image_to_image": 0.5}
_NOT_INVERTED = ("scheduler", "classifier_guidance", "cache")


class TranslateConditions(ConditionKind):
    """Real images in another stain, scanner or preparation; rows are pairs."""

    streams = (Source, ClassName, Caption, Domain, Control)

    class Settings(ImageSettings):
        kind: Literal["translate"]
        method: Method = Field(
            "model",
            description="model: a network that translates in one pass; invert: a diffusion model, "
            "from the inverted path of the image; image_to_image: from the image with noise",
        )
        to: Target | None = Field(None, description="what they become; a translator may know it")
        strength: PositiveFraction | None = Field(
            None,
            description="share of the path to noise; default: 1 of invert, 0.5 of image_to_image",
        )
        steps: int | None = Field(
            None, ge=1, le=1000, description="of the whole path; default: generator.steps"
        )
        inject: Inject | None = Field(None, description="of invert: keeps structure closer")
        source_class_name: ClassWord | None = Field(
            None, description="of invert: class that the images show, in words of the model"
        )
        source_caption: Text | None = Field(
            None, description="of invert: prompt that tells them, with {class_name}"
        )
        masks: Path | None = Field(
            None,
            description="label maps named as the images: what is made anew, all but 0; "
            "of pipelines with a mask, which else leave glass alone",
        )
        keep_glass: bool = Field(True, description="lumen and background stay the source's")
        keep_haematoxylin: bool = Field(
            False, description="its plane stays the source's, as strong as made; of H&E to H&E"
        )
        keep_source: bool = Field(True, description="rows keep the source in the column source")
        per_image: Count = Field(1, description="accepted images of each source")
        per_class: PerClass | None = Field(
            None, description="instead: accepted images of each class, whose sources take turns"
        )
        shots: Count | None = Field(
            None, description="sources, chosen by seed (of each class with per_class); default: all"
        )
        fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")
        label_column: str | None = Field(None, description="column with the class")

        @model_validator(mode="after")
        def _check_method(self) -> Self:
            of_invert = ("inject", "source_class_name", "source_caption")
            of_diffusion = ("strength", "steps")
            no_effect = [] if self.method == "invert" else list(of_invert)
            no_effect += of_diffusion if self.method == "model" else ()
            for name in no_effect:
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect on method {self.method}: remove it")
            if self.method != "model" and self.to is None:
                raise ValueError(f"to is needed by method {self.method}: say what they become")
            if self.method == "invert" and self.per_image > 1:
                raise ValueError("method invert makes one image of each source: remove per_image")
            if self.per_class is None:
                if self.to is not None and self.to.looks is not None:
                    raise ValueError("to.looks: sources meet them by per_class: set it")
                return self
            if self.per_image > 1 or self.masks is not None:
                raise ValueError("per_class goes without per_image and masks: remove them")
            if self.method == "model":
                raise ValueError("per_class: a network of one pass makes one image of each source")
            if self.to is not None and self.to.class_name is not None:
                raise ValueError("per_class keeps the classes of the sources: remove to.class_name")
            return self

    settings: Settings

    @property
    def has_caption(self) -> bool:
        """Whether a prompt is asked for."""
        return self.settings.to is not None and self.settings.to.caption is not None

    @property
    def is_per_class(self) -> bool:
        """Whether it asks for so many images of each class."""
        return self.settings.per_class is not None

    @property
    def unlabelled(self) -> tuple[BlockImages, ...]:
        """Those that tell the target."""
        return () if self.domain is None else (self.domain,)

    @property
    def images(self) -> BlockImages:
        """The sources."""
        return self.settings.block

    @property
    def domain(self) -> BlockImages | None:
        """Real images of the target, if any tell it."""
        target = self.settings.to
        if target is None or target.domain is None:
            return None
        named = target.model_dump(include={"group_column", "group_pattern"})
        return BlockImages(target.domain, self.settings.fit, named)

    @property
    def masks(self) -> BlockImages | None:
        """What of the sources is made anew, if masks tell it; no real images."""
        named = self.settings.masks
        return None if named is None else BlockImages(named, self.settings.fit)

    @property
    def held(self) -> tuple[type[Any], ...]:
        """What its conditions may hold."""
        return tuple(
            each
            for each in self.streams
            if not (each is Domain and self.domain is None)
            and not (each is Control and self.masks is None)
            and not (each is Caption and not self.has_caption)
        )

    def list_read(self) -> Sequence[BlockImages]:
        """Returns where sources and images of the target are."""
        return (self.images,) if self.domain is None else (self.images, self.domain)

    def describe_content(self) -> dict[str, Any]:
        """Returns its settings without where masks lie: their values count, in the series' key."""
        content = super().describe_content()
        del content["masks"]
        if not self.settings.keep_haematoxylin:  # fingerprints are those of older versions
            del content["keep_haematoxylin"]
        return content

    def list_used(self, session: Session, seed: int) -> Sequence[SourceImage]:
        """Returns the chosen sources.

        Raises:
            SourceError: images that cannot be read.
        """
        if self.is_per_class:
            of_classes = self._choose_by_class(session, seed)
            return [image for chosen in of_classes.values() for image, _ in chosen]
        return [
            image for image, _ in choose_images(self.images, session, seed, self.settings.shots)
        ]

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns the one series of all sources, or one of the sources of each class.

        Raises:
            SourceError: images that are missing or cannot be read, or too few of a class.
        """
        settings, session = self.settings, planning.session
        target, domain = settings.to, self.domain
        domains: list[Domain] = []
        if target is not None and domain is not None:
            domains = target.choose_domains(domain, session, planning.seed)
        if settings.per_class is not None:
            return self._build_classes(domains, planning)
        chosen = choose_images(self.images, session, planning.seed, settings.shots)
        groups, others = read_groups([image for image, _ in chosen]), tuple(domains)
        images, masks = [image for image, _ in chosen], self.masks
        maps = [None] * len(chosen) if masks is None else find_masks(masks, images, session)
        conditions = tuple(
            self._ask(image, sha256, group, others if mask is None else (*others, mask))
            for (image, sha256), group, mask in zip(chosen, groups, maps, strict=True)
        )
        name = session.resolve(settings.images).name
        count = len(conditions) * settings.per_image
        return [TranslateSeries(name, conditions, count, tuple(self._list_details(others)))]

    def _choose_by_class(self, session: Session, seed: int) -> dict[str, tuple[Chosen, ...]]:
        """Returns the sources of each class that is asked for; raises as `choose_by_class`."""
        asked, shots = self.settings.per_class or {}, self.settings.shots
        return choose_by_class(self.images, asked, shots, session, seed)

    def _build_classes(self, domains: Sequence[Domain], planning: Planning) -> list[Series]:
        """Returns a series of each class: its sources, each in one look after the other."""
        settings, session = self.settings, planning.session
        of_classes = self._choose_by_class(session, planning.seed)
        counts = expand_per_class(settings.per_class or {}, tuple(of_classes))
        details = tuple(self._list_details(domains))
        found: list[Series] = []
        for name, chosen in of_classes.items():
            groups = read_groups([image for image, _ in chosen])
            conditions = tuple(
                self._ask(*chosen[shot], groups[shot], tuple(domains[look : look + 1]))
                for shot, look in pair_all(len(chosen), len(domains) or 1)
            )
            found.append(RestyleSeries(name, conditions, counts[name], details))
        return found

    def _list_details(self, others: Sequence[Domain]) -> Iterator[str]:
        """Yields what people are told of the series."""
        settings = self.settings
        yield f"method {settings.method}"
        if len(others) > 1:
            yield f"{len(others)} targets in turn, each told by real images"
        elif others:
            yield f"the target is told by {len(others[0].images):,} real images"
        if settings.keep_source:
            yield "rows hold the real images that were translated, in the column source"

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing, and a way or a target that the model does not know."""
        settings, target = self.settings, self.settings.to
        self._check_way(findings, path)
        if target is not None:
            self._check_target(findings, target, (*path, "to"))
        if settings.per_class is not None:
            given = (settings.per_class, settings.shots, settings.fit)
            _, names = check_shots(findings, path, self.images, *given)
            keyed = isinstance(settings.per_class, dict)
            findings.asked.add(names, (*path, "per_class"), keyed=keyed)
        elif self.images.check_groups(findings, path) and findings.check_files:
            names = check_images(findings, self.images, (*path, "images"))
            check_masks(findings, self.masks, self.images, (*path, "masks"))
            if target is None or target.class_name is None:
                findings.asked.add(names, (*path, "images"))
        if target is not None and target.class_name is not None:
            findings.asked.add((target.class_name,), (*path, "to", "class_name"))
        told = compute_digest("translate", self.describe_content())[:8]
        return [("images", str(settings.images), "translated by settings", told)]

    def _check_way(self, findings: Findings, path: FieldPath) -> None:
        settings, model = self.settings, findings.model
        if model is not None and model.family is not None:
            known = sorted(model.family.translations)
            if settings.method not in known:
                message = f"{model.name} does not translate by method {settings.method}"
                advice = f"take {' or '.join(known)}" if known else "take another model"
                findings.add((*path, "method"), f"{message}: {advice}")
            if settings.per_image > 1 and not model.family.is_seeded:
                message = f"{model.name} makes one image of each source, whatever the seed"
                findings.add((*path, "per_image"), f"{message}: remove it")
            if settings.masks is not None and not model.family.paints_masks:
                message = f"{model.name} is not told by a mask what to make anew: remove it"
                findings.add((*path, "masks"), message)
            if settings.keep_haematoxylin and model.family.channels is not None:
                message = f"{model.name} makes channels, which have no haematoxylin: remove it"
                findings.add((*path, "keep_haematoxylin"), message)
        if settings.method == "image_to_image":
            strength = settings.strength or _STRENGTH[settings.method]
            findings.check_strength(strength, settings.steps, path)
        recipe = findings.loaded.recipe
        for name in _NOT_INVERTED if settings.method == "invert" else ():
            if getattr(recipe.generator, name) is not None:
                message = "has no effect on method invert, which steps by Euler or DDIM: remove it"
                findings.add(("generator", name), message)
        speed = recipe.generator.speed
        if settings.method == "invert" and speed is not None and speed.compile:
            message = "cannot be on for method invert, which looks into layers: remove it"
            findings.add(("generator", "speed", "compile"), message)
        if settings.per_class is not None:
            return
        if settings.method == "invert" and recipe.budget.attempts != 1:
            message = "method invert gives the same image at every try: set it to 1"
            findings.add(("budget", "attempts"), message)

    def _check_target(self, findings: Findings, target: Target, path: FieldPath) -> None:
        model = findings.model
        findings.check_prompt(target.caption, (*path, "caption"))
        findings.check_prompt(self.settings.source_caption, (*path[:-1], "source_caption"))
        takes = None if model is None else model.streams
        if target.domain is not None and takes is not None and Domain.name not in takes:
            message = f"{model.name if model else ''} is not told a domain by images"
            findings.add((*path, "domain"), f"{message}: name a class_name or caption")
        elif (
            self.domain is not None
            and self.domain.check_groups(findings, path)
            and findings.check_files
        ):
            check_images(findings, self.domain, (*path, "domain"))
        if model is None or model.class_names is None:
            return
        named = {(*path, "class_name"): target.class_name if target.caption is None else None}
        named[(*path[:-1], "source_class_name")] = self.settings.source_class_name
        for place, name in named.items():
            if name is not None:
                findings.check_names((name,), model.class_names, place, model.name, keyed=False)

    def _ask(
        self, image: SourceImage, sha256: str, group: str | None, others: tuple[Stream, ...]
    ) -> Condition:
        settings = self.settings
        target = settings.to
        name = image.class_name if target is None else target.class_name or image.class_name
        caption, shown = None if target is None else target.caption, settings.source_caption
        if caption is not None:
            caption = caption.format(class_name=image.class_name or "")
        if shown is not None:
            shown = shown.format(class_name=image.class_name or "")
        inject = settings.inject
        way = Translation(
            settings.method,
            settings.strength or _STRENGTH.get(settings.method, 1.0),
            settings.steps,
            None if inject is None else Injection(inject.layers, inject.share),
            settings.source_class_name,
            shown,
            settings.keep_glass,
            settings.keep_haematoxylin,
        )
        source = Source(image, sha256, way, settings.fit, group, settings.keep_source)
        return Condition(name, caption, source, *others)
