"""Mask conditions: images that show what real masks mark, where they mark it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import LicenceTerms, ModelEntry
from factory.catalog.licences.terms import SOURCE_MASKS, Term
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest
from factory.core.late import np
from factory.core.yaml.reader import FieldPath
from factory.data.groups import read_groups
from factory.data.images import SourceImage
from factory.data.images.fields import GroupColumn, GroupPattern
from factory.data.label_maps import (
    INSTANCES,
    TURNS,
    Palette,
    Values,
    decode_labels,
    fit_labels,
    hash_labels,
    list_ids,
    list_unknown,
    tell_crowded,
    tell_small,
)
from factory.data.records import Condition, Request
from factory.data.shots import rank_shots
from factory.data.streams import Caption, ClassName, Control
from factory.data.streams.control import KeptMask, MaskFile, PaletteNames
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    Planning,
)
from factory.recipe.conditions.series import ManyConditions

MOST_TOLD = 3
"""Masks that are named of those that share a problem."""
HINT = "values: objects, if it numbers objects 1 .. n"


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What is known of a mask: hash of its values, (width, height), ids, objects of 1 .. n."""

    sha256: str
    size: tuple[int, int]
    values: tuple[int, ...]


@functools.lru_cache(maxsize=65_536)
def scan_mask(image: SourceImage, sha256: str) -> MaskFacts:
    """Reads a mask once; `sha256` of its bytes tells another file in its place.

    Raises:
        SourceError: no readable label map.
    """
    labels = decode_labels(image.read_bytes(), image.place)
    values = tuple(np.flatnonzero(np.bincount(labels.ravel())).tolist())
    return MaskFacts(hash_labels(labels), (labels.shape[1], labels.shape[0]), values)


@dataclass(frozen=True)
class MaskSeries(ManyConditions):
    """The masks in turn, then again, turned, then again with the next ordinals.

    `conditions` are those of the masks as they are, in order; `turns` the flips and turns of each.
    """

    turns: tuple[tuple[int, ...], ...]
    origin = "masks"

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its masks in order, and how they are turned."""
        masks = [condition.describe() for condition in self.conditions]
        content = {"kind": "mask", "masks": masks, "turns": self.turns}
        return compute_digest("series", content)[:16]

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.conditions))
        turns = self.turns[row]
        ordinal, turn = divmod(cycle, len(turns))
        return Request(self.key, index, _turn(self.conditions[row], turns[turn]), ordinal)


def _turn(condition: Condition, turn: int) -> Condition:
    """Returns a condition with its mask flipped or turned."""
    control = condition.get(Control)
    if not turn or control is None or not isinstance(control.source, MaskFile):
        return condition
    turned = replace(control, source=replace(control.source, turn=turn))
    return Condition(condition.class_name, condition.caption, turned)


class MaskConditions(ConditionKind):
    """Images of real masks: nuclei, glands or tissue where these mark them."""

    streams = (Control, ClassName, Caption)

    class Settings(ConditionSettings):
        kind: Literal["mask"]
        masks: Path = Field(
            description="folder of PNG or TIFF label maps, parquet, tars, datasets folder or run"
        )
        palette: PaletteNames = Field(
            description="value of the mask -> what it marks; 0 is nothing"
        )
        values: Values = Field(
            "ids",
            description="ids: those of the palette; objects: 1 .. n, each an object of the one "
            "name of the palette; coded: id * 1000 + n, as rows of factory keep objects",
        )
        per_mask: Count | None = Field(None, description="accepted images of each mask")
        count: Count | None = Field(None, description="accepted images over all masks, in turn")
        variants: int = Field(1, ge=1, le=TURNS, description="flips and quarter turns of each mask")
        fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")
        caption: str | None = Field(None, description="prompt for text models, with {class_name}")
        allow_empty: bool = Field(False, description="take masks that mark nothing, too")
        mask_column: str | None = Field(None, description="column of the masks in parquet, arrow")
        label_column: str | None = Field(None, description="column with the class")
        caption_column: str | None = Field(None, description="column with the caption")
        group_column: GroupColumn = None
        group_pattern: GroupPattern = None
        licence: LicenceTerms | None = Field(
            None, description="terms of the masks; default: card.source_license"
        )

        @model_validator(mode="after")
        def _check_choices(self) -> Self:
            if (self.per_mask is None) == (self.count is None):
                raise ValueError("takes either per_mask or count: set one of them")
            if self.values == "objects" and len(self.palette) != 1:
                raise ValueError("palette: objects are all of one name: name one id")
            if self.values != "ids" and max(self.palette) > 65535 // INSTANCES - 1:
                raise ValueError(f"palette: ids of objects are at most {65535 // INSTANCES - 1}")
            if self.caption is not None and self.caption_column is not None:
                raise ValueError("takes either caption or caption_column: remove one")
            return self

    settings: Settings

    @property
    def has_caption(self) -> bool:
        """Whether its images may have a caption: masks of a table may bring one."""
        return True

    @property
    def palette(self) -> Palette:
        """Ids and names, sorted by id."""
        return tuple(sorted(self.settings.palette.items()))

    def build_series(self, planning: Planning) -> list[MaskSeries]:
        """Returns the one series of all masks.

        Raises:
            SourceError: masks that are missing or cannot be read.
        """
        settings, session = self.settings, planning.session
        found = {sha: (image, facts) for image, sha, facts in self._list(session)}
        images = {sha: image for sha, (image, _) in found.items()}
        groups = dict(zip(images, read_groups(tuple(images.values())), strict=True))
        order = rank_shots(images, planning.seed)
        conditions = tuple(self._ask(*found[sha], groups[sha]) for sha in order)
        turns = tuple(_draw_turns(settings.variants, planning.seed, sha) for sha in order)
        count = settings.count or len(conditions) * (settings.per_mask or 0)
        return [MaskSeries(settings.masks.name, conditions, count, turns)]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes masks that are missing, empty, too small, or have ids that are not named."""
        settings, model = self.settings, findings.model
        findings.check_prompt(settings.caption, (*path, "caption"))
        entry = None if model is None else model.entry
        for identifier, misfit in find_unknown_names(self.palette, entry):
            findings.add((*path, "palette", str(identifier)), misfit)
        if self._masks.check_groups(findings, path) and findings.check_files:
            self._check_masks(findings, path)
        return [("masks", str(settings.masks))]

    def list_marks(self, session: Session) -> Sequence[str]:
        """Returns the names of the palette."""
        return tuple(self.settings.palette.values())

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of the masks: the block's own, else those of the real images."""
        licence = self.settings.licence
        plain = source if licence is None else licence.model_dump(mode="json")
        return (Term(SOURCE_MASKS, self.settings.masks.name, plain),)

    def describe_content(self) -> dict[str, Any]:
        """Returns its settings without the terms, which shape no image."""
        content = super().describe_content()
        del content["licence"]
        return content

    @property
    def _masks(self) -> BlockImages:
        """Where the masks are; no real images, hence not `images`."""
        settings = self.settings
        named = {"label_column", "caption_column", "group_column", "group_pattern"}
        columns = {**settings.model_dump(include=named), "image_column": settings.mask_column}
        return BlockImages(settings.masks, settings.fit, columns)

    def _list(self, session: Session) -> Iterator[tuple[SourceImage, str, MaskFacts]]:
        """Yields each different mask with the hash of its bytes; equal ones of a class count once.

        Raises:
            SourceError: masks that are missing or cannot be read.
        """
        seen: set[tuple[str, str | None, str | None]] = set()
        try:
            listed = self._masks.list(session)
        except SourceError as error:
            raise SourceError(str(error).replace("image_column", "mask_column")) from error
        for image in listed:
            sha = session.images.hash_bytes(image)
            facts = self._scan(image, sha)
            known = (facts.sha256, image.class_name, image.caption)
            if known not in seen:
                seen.add(known)
                yield image, compute_digest("mask", known), facts

    def _scan(self, image: SourceImage, sha256: str) -> MaskFacts:
        try:
            return scan_mask(image, sha256)
        except SourceError as error:
            if image.row is None or self.settings.mask_column is not None:
                raise
            chosen = f"these are of column {image.column!r}: name that of the masks"
            raise SourceError(f"{error}; {chosen} with mask_column") from error

    def _ask(self, image: SourceImage, facts: MaskFacts, group: str | None) -> Condition:
        settings = self.settings
        objects_of = next(iter(settings.palette)) if settings.values == "objects" else None
        source = MaskFile(image, facts.sha256, settings.fit, 0, objects_of)
        control = Control(source, self.palette, settings.values != "ids", group)
        text = image.caption
        if settings.caption is not None:
            text = settings.caption.format(class_name=image.class_name or "")
        return Condition(image.class_name, text, control)

    def _check_masks(self, findings: Findings, path: FieldPath) -> None:
        """Reads every mask, and notes what is wrong with them."""
        place: FieldPath = (*path, "masks")
        problems: dict[str, list[str]] = {}
        names: dict[str, None] = {}
        try:
            for image, _, facts in self._list(findings.loaded.session):
                for field, problem in self._find_problems(image, facts, findings.pixels):
                    problems.setdefault(f"{field}|{problem}", []).append(image.place)
                if image.class_name is not None:
                    names[image.class_name] = None
        except SourceError as error:
            findings.add(place, str(error))
            return
        findings.asked.add(tuple(names), place)
        for key, places in problems.items():
            field, _, problem = key.partition("|")
            more = f" and {len(places) - MOST_TOLD:,} more" if len(places) > MOST_TOLD else ""
            findings.add((*path, field), f"{', '.join(places[:MOST_TOLD])}{more}: {problem}")

    def _find_problems(
        self, image: SourceImage, facts: MaskFacts, pixels: tuple[int, int] | None
    ) -> Iterator[tuple[str, str]]:
        """Yields (field, problem) of a mask; raises SourceError where it cannot be read again."""
        settings = self.settings
        values = np.array(facts.values, np.uint16)
        if not values.any() and not settings.allow_empty:
            yield "masks", "marks nothing: remove it, or set allow_empty: true"
        plain = [value for value in facts.values if 0 < value < INSTANCES]
        if settings.values == "coded" and plain:
            yield "values", f"has the values {_name(plain)}, which code no name: {HINT}"
        elif settings.values != "objects":
            coded = settings.values == "coded"
            unknown = list_unknown(list_ids(values) if coded else values, self.palette)
            if unknown:
                hint = "" if coded else f" ({HINT})"
                had = _name(unknown)
                yield "palette", f"has the values {had}, which it does not name{hint}: name them"
        if pixels is None:
            return
        wanted = (max(pixels), max(pixels)) if settings.variants > 1 else pixels
        small = tell_small(facts.size, wanted) if settings.fit == "crop" else None
        if small is not None:
            yield "fit", small
        elif settings.values == "objects" and len(values) >= INSTANCES:
            labels = decode_labels(image.read_bytes(), image.place)
            crowded = tell_crowded(fit_labels(labels, *pixels, settings.fit, image.place))
            if crowded is not None:
                yield "masks", crowded


def _name(values: Sequence[int]) -> str:
    """Returns the first few values of many, for messages."""
    return ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")


def _draw_turns(variants: int, seed: int, sha256: str) -> tuple[int, ...]:
    """Returns so many flips and turns, the mask as it is first, the others in a seeded order."""
    others = sorted(range(1, TURNS), key=lambda turn: compute_digest("turn", [seed, sha256, turn]))
    return (0, *others[: variants - 1])


def find_unknown_names(palette: Palette, entry: ModelEntry | None) -> Iterator[tuple[int, str]]:
    """Yields (id, problem) of every name that a model was not taught."""
    if entry is None:
        return
    for pair in palette:
        misfit = Control(KeptMask(b"", "{}"), (pair,)).find_misfit(entry)
        if misfit is not None:
            yield pair[0], misfit
