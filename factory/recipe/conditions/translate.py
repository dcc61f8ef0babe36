"""Translate conditions: real images as they would look in another stain, scanner or preparation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import ClassName as ClassWord
from factory.catalog.entries import Strict
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.notes import tell
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage, check_fit
from factory.data.records import Condition
from factory.data.shots import rank_shots
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
    Planning,
)
from factory.recipe.conditions.translate_masks import check_masks, find_masks
from factory.recipe.conditions.translate_series import TranslateSeries

_STRENGTH = {"invert": 1.0, "image_to_image": 0.5}
_NOT_INVERTED = ("scheduler", "classifier_guidance")
Text = Annotated[str, Field(min_length=1)]


class Target(Strict):
    """What sources become, in words of the model: at least one of the three."""

    class_name: ClassWord | None = Field(None, description="a class of the model; labels the rows")
    caption: Text | None = Field(None, description="prompt, with {class_name} of the source")
    domain: Path | None = Field(None, description="real images of the target, unpaired")
    domain_images: int = Field(64, ge=1, le=1024, description="of these, chosen by seed")
    group_column: str | None = Field(None, description="of domain: patient or slide column")
    group_pattern: str | None = Field(
        None, description="of domain: regex on its file names, one (group)"
    )

    @model_validator(mode="after")
    def _check_some(self) -> Self:
        if self.class_name is None and self.caption is None and self.domain is None:
            raise ValueError("says nothing: set class_name, caption or domain")
        if self.domain is None and (self.group_column or self.group_pattern):
            raise ValueError("group_column and group_pattern are of domain: remove them")
        return self


class Inject(Strict):
    """Self-attention of the inversion, in the way back (MUPAD; Tumanyan et al. 2023)."""

    layers: tuple[Text, ...] = Field(
        ("*",), min_length=1, description="self-attention layers by name, * for any letters"
    )
    share: float = Field(0.5, gt=0.0, le=1.0, description="of the steps, from the first")


class TranslateConditions(ConditionKind):
    """Real images in another stain, scanner or preparation; rows are pairs."""

    kind = "translate"
    streams = (Source, ClassName, Caption, Domain, Control)

    class Settings(ImageSettings):
        """Real images in another stain, scanner or preparation; rows are pairs."""

        kind: Literal["translate"]
        method: Method = Field(
            "model",
            description="model: a network that translates in one pass; invert: a diffusion model, "
            "from the inverted path of the image; image_to_image: from the image with noise",
        )
        to: Target | None = Field(None, description="what they become; a translator may know it")
        strength: float | None = Field(
            None,
            gt=0.0,
            le=1.0,
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
        shots: Count | None = Field(None, description="sources, chosen by seed; default: all")
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
            return self

    settings: Settings

    @property
    def has_caption(self) -> bool:
        """Whether a prompt is asked for."""
        return self.settings.to is not None and self.settings.to.caption is not None

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
        return [image for image, _ in self._choose(self.images, session, seed, self.settings.shots)]

    def build_series(self, planning: Planning) -> list[TranslateSeries]:
        """Returns the one series of all sources.

        Raises:
            SourceError: images that are missing or cannot be read.
        """
        settings, session = self.settings, planning.session
        chosen = self._choose(self.images, session, planning.seed, settings.shots)
        groups = read_groups([image for image, _ in chosen])
        others = self._build_domain(session, planning.seed)
        images, masks = [image for image, _ in chosen], self.masks
        maps = [None] * len(chosen) if masks is None else find_masks(masks, images, session)
        conditions = tuple(
            self._ask(image, sha256, group, others if mask is None else (*others, mask))
            for (image, sha256), group, mask in zip(chosen, groups, maps, strict=True)
        )
        name = session.resolve(settings.images).name
        count = len(conditions) * settings.per_image
        return [TranslateSeries(name, conditions, count, tuple(self._list_details(others)))]

    def _list_details(self, others: Sequence[Domain]) -> Iterator[str]:
        """Yields what people are told of the series."""
        settings = self.settings
        yield f"method {settings.method}"
        for each in others:
            yield f"the target is told by {len(each.images):,} real images"
        if settings.keep_source:
            yield "rows hold the real images that were translated, in the column source"

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing, and a way or a target that the model does not know."""
        settings, target = self.settings, self.settings.to
        self._check_way(findings, path)
        if target is not None:
            self._check_target(findings, target, (*path, "to"))
        if self.images.check_groups(findings, path) and findings.check_files:
            names = _check_images(findings, self.images, (*path, "images"))
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
        recipe = findings.loaded.recipe
        for name in _NOT_INVERTED if settings.method == "invert" else ():
            if getattr(recipe.generator, name) is not None:
                message = "has no effect on method invert, which steps by Euler or DDIM: remove it"
                findings.add(("generator", name), message)
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
            _check_images(findings, self.domain, (*path, "domain"))
        if model is None or model.class_names is None:
            return
        named = {(*path, "class_name"): target.class_name if target.caption is None else None}
        named[(*path[:-1], "source_class_name")] = self.settings.source_class_name
        for place, name in named.items():
            if name is not None:
                findings.check_names((name,), model.class_names, place, model.name, keyed=False)

    def _choose(
        self, block: BlockImages, session: Session, seed: int, shots: int | None
    ) -> list[tuple[SourceImage, str]]:
        """Returns images by seed with the hashes of their bytes, equal ones once.

        Raises:
            SourceError: images that are missing or cannot be read.
        """
        images = block.list(session)
        unique = {session.images.hash_bytes(image): image for image in images}
        if len(unique) < len(images):
            repeated = len(images) - len(unique)
            tell(
                f"{session.resolve(block.path)}: {repeated:,} images repeat others, byte by byte: "
                "each counts once"
            )
        return [(unique[sha], sha) for sha in rank_shots(unique, seed)[:shots]]

    def _build_domain(self, session: Session, seed: int) -> tuple[Domain, ...]:
        target, block = self.settings.to, self.domain
        if target is None or block is None:
            return ()
        found = self._choose(block, session, seed, target.domain_images)
        found.sort(key=lambda pair: pair[1])
        images, hashes = tuple(image for image, _ in found), tuple(sha256 for _, sha256 in found)
        groups = {each for each in read_groups(images) if each is not None}
        return (Domain(images, hashes, block.fit, tuple(sorted(groups))),)

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


def _check_images(findings: Findings, block: BlockImages, place: FieldPath) -> tuple[str, ...]:
    """Returns the classes of images; notes those that are missing or too small."""
    session = findings.loaded.session
    try:
        images = block.list(session)
        if findings.pixels is not None:
            root, read_size = session.resolve(block.path), session.images.read_size
            check_fit(images, *findings.pixels, block.fit, root, read_size)
    except SourceError as error:
        findings.add(place, str(error))
        return ()
    return tuple(dict.fromkeys(each.class_name for each in images if each.class_name))
