"""Checks of a recipe's filters and of what picks: each filter's own, and that it has any effect."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from factory.core.errors import SourceError
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.channels import name_made
from factory.data.images import SourceImage
from factory.data.streams import Source
from factory.filters import build_filters
from factory.filters.base import Filter
from factory.filters.check import FilterCheck, UsedImages
from factory.models.encoders.check import check_encoder
from factory.models.generators.families import Family
from factory.recipe.checks.findings import Findings
from factory.recipe.recipe import BestPick, DiversePick, Recipe

GROUPS = ("group_column", "group_pattern")


def check_filters(findings: Findings) -> None:
    """Notes what is wrong with the filters, and with what picks by their scores."""
    recipe, session = findings.loaded.recipe, findings.loaded.session
    judges = build_filters(recipe.filters, session)
    _check_pick(findings, judges)
    _check_early(findings, judges)
    _check_judges_of_classes(findings, judges)
    varied = tuple(
        UsedImages(
            f"conditions[{number}]",
            _forgive(partial(block.list_used, session, recipe.seed)),
            {name: block.varied.columns.get(name) for name in GROUPS},
        )
        for number, block in enumerate(recipe.blocks)
        if block.varied is not None
    )
    has_captions = any(block.has_caption for block in recipe.blocks)
    streams = frozenset(stream.name for stream in recipe.streams)
    told = (tuple(block.list_marks(session)) for block in recipe.blocks)
    family = None if findings.model is None else findings.model.family
    channels = None if family is None else name_made(family.channels)
    marks = tuple(dict.fromkeys(each for each in told if each))
    for number, judge in enumerate(judges):
        others = tuple(
            UsedImages(
                other.name,
                _forgive(partial(real.list, session)),
                {name: real.columns.get(name) for name in GROUPS},
            )
            for other in judges
            for real in other.real_images
            if other is not judge
        )
        place: FieldPath = ("filters", number)
        found = FilterCheck(findings, place, varied, others, has_captions, streams, marks, channels)
        judge.check(found)


def _check_judges_of_classes(findings: Findings, judges: Sequence[Filter]) -> None:
    """Notes filters that would judge nothing, as no condition has a class."""
    is_existing = any(block.is_existing for block in findings.loaded.recipe.blocks)  # by image
    if findings.asked.fields or is_existing or findings.problems or not findings.check_files:
        return
    for number, judge in enumerate(judges):
        if judge.needs_class:
            message = f"no condition has a class, so that filter {judge.name} judges nothing"
            findings.add(
                ("filters", number),
                f"{message}: ask by class, name class_column, sort images into folders by class, "
                "or remove the filter",
            )


def _check_pick(findings: Findings, judges: Sequence[Filter]) -> None:
    pick = findings.loaded.recipe.pick
    if isinstance(pick, DiversePick):
        check_encoder(findings, pick.encoder, ("pick", "encoder"))
    if isinstance(pick, BestPick):
        known = [name for judge in judges for name in judge.score_names]
        name = pick.by.removeprefix("-")
        if name not in known:
            message = f"no filter of the recipe writes score {name!r}: {advise(name, known)}"
            findings.add(("pick", "by"), message)


def _check_early(findings: Findings, judges: Sequence[Filter]) -> None:
    """Notes scores that no filter writes, and models whose tries cannot be stopped part-way."""
    recipe, model = findings.loaded.recipe, findings.model
    early = recipe.early
    if early is None:
        return
    known = [name for judge in judges for name in judge.score_names]
    for side in ("min", "max"):
        for name in (each for each in getattr(early, side) if each not in known):
            message = f"no filter of the recipe writes score {name!r}: {advise(name, known)}"
            findings.add(("early", side, name), message)
        asked = tuple(findings.asked.fields)
        is_known = findings.check_files and bool(asked or not findings.problems)
        for name, bound in getattr(early, side).items():
            for each in bound if isinstance(bound, dict) and is_known else ():
                if each not in asked:
                    message = f"no condition asks for class {each!r}: {advise(each, asked)}"
                    findings.add(("early", side, name, each), message)
    for place, message in list_unstoppable(recipe, None if model is None else model.family):
        findings.add(place, message)


def list_unstoppable(recipe: Recipe, family: Family | None) -> Iterator[tuple[FieldPath, str]]:
    """Yields why no try of a recipe can be stopped part-way: a field, and what to do."""
    if family is not None and not family.pauses:
        message = f"{recipe.generator.model} is of family {family.kind!r}, which cannot be stopped"
        yield ("early",), f"{message} part-way: remove it, or take one of flow or multi"
    if recipe.generator.cache is not None:
        message = "what generator.cache holds is of one call, which no try goes on in: remove one"
        yield ("early",), message
    for number, block in enumerate(recipe.blocks):
        if Source in block.held:
            message = "images that are translated are not stopped part-way: remove early"
            yield ("conditions", number), message


def _forgive(list_them: Callable[[], Sequence[SourceImage]]) -> Callable[[], Sequence[SourceImage]]:
    """Returns what lists nothing where it fails: another check complains of it."""

    def list_or_none() -> Sequence[SourceImage]:
        try:
            return list_them()
        except SourceError:
            return ()

    return list_or_none
