"""Terms of all that makes a data set: of a recipe now, of a run as they were when it was made."""

from collections.abc import Iterator, Sequence
from typing import Any

from factory.catalog.catalog import Catalogs, EncoderEntry
from factory.catalog.licences.terms import (
    SOURCE_IMAGES,
    Permissions,
    Term,
    combine_terms,
    drop_repeated,
)
from factory.core.places import take_name
from factory.data.summary import Maker, Summary
from factory.filters import build_filters
from factory.filters.base import Filter
from factory.models.encoders import find_source, find_weights, list_parts
from factory.models.generators.families import does_generate
from factory.models.generators.settings import find_entry
from factory.models.session import Session
from factory.recipe.conditions.family_looks import list_look_terms
from factory.recipe.file import LoadedRecipe
from factory.recipe.judge_overlap import GUIDE, list_encoders
from factory.recipe.recipe import Card, Recipe, is_judging


def describe_terms(recipe: Recipe, session: Session) -> dict[str, Any]:
    """Returns the terms of model, components, adapters and judges as plain data, for provenance.

    Raises:
        RecipeError: a catalog file is wrong.
    """
    entry = find_entry(recipe.generator, session.catalogs)
    conditions = [term for term in _list_conditions(recipe, session) if term.role != SOURCE_IMAGES]
    found = [
        *_list_adapters(recipe),
        *_list_conditioners(recipe, session),
        *_list_judges(recipe, session),
        *conditions,
    ]
    return {
        "licence": None if entry is None else entry.licence.model_dump(mode="json"),
        "components": []
        if entry is None
        else [part.model_dump(mode="json") for part in entry.components],
        "other_terms": [
            {"role": term.role, "source": term.name, "licence": term.licence}
            for term in drop_repeated(found)
        ],
    }


def describe_source(card: Card) -> dict[str, Any] | None:
    """Returns the terms of the real images as the recipe's card states them, or None."""
    if card.source_license is None:
        return None
    return {"id": card.source_license, "attribution": list(card.source_attribution)}


def collect_recipe_terms(recipe: Recipe, session: Session) -> tuple[Term, ...]:
    """Returns the terms that a run of the recipe would record now; raises as `describe_terms`."""
    terms: list[Term] = []
    if not is_judging(recipe):
        maker = describe_terms(recipe, session)
        generator = {"model": recipe.generator.model}
        terms += _read_maker(Maker(generator=generator, filters=(), score_names=(), **maker))
    else:
        terms += _list_judges(recipe, session)
    return (
        *terms,
        *(term for term in _list_conditions(recipe, session) if term.role == SOURCE_IMAGES),
    )


def combine_recipe_terms(loaded: LoadedRecipe) -> Permissions:
    """Returns what the terms of a recipe's makers, as catalogs say now, let its data set be."""
    return combine_terms(collect_recipe_terms(loaded.recipe, loaded.session))


def collect_summary_terms(summary: Summary) -> tuple[Term, ...]:
    """Returns the terms of a run's makers, as they were recorded when the images were made.

    Args:
        summary: `summary.json` of a finalized run.
    """
    terms = [term for maker in summary.makers for term in _read_maker(maker)]
    if summary.judged or summary.varies_real_images:
        terms.append(Term(SOURCE_IMAGES, "of the recipe", summary.source_terms))
    return tuple(terms)


def _read_maker(maker: Maker) -> Iterator[Term]:
    """Yields the terms of one worker's description; those of given images are the source's."""
    if does_generate(maker.generator.family):
        yield Term("generator", take_name(maker.model), maker.licence)
    for part in maker.components:
        yield Term(part.role, take_name(part.source), part.licence)
    if maker.other_terms is None:  # made before these were recorded
        for adapter in maker.generator.adapters:
            yield Term("adapter", take_name(adapter.source), None)
    for part in maker.other_terms or ():
        yield Term(part.role, part.source, part.licence)


def _list_adapters(recipe: Recipe) -> Iterator[Term]:
    """Yields the recipe's adapters; those of a catalog entry are under the entry's terms."""
    for adapter in recipe.generator.adapters:
        licence = None
        if adapter.licence is not None:
            licence = adapter.licence.model_dump(mode="json")
        yield Term("adapter", take_name(adapter.source), licence)


def _list_judges(recipe: Recipe, session: Session) -> Iterator[Term]:
    """Yields the encoders and classifiers of guidance, filters and picks."""
    judges, catalogs = build_filters(recipe.filters, session), session.catalogs
    for user, name in _list_classifiers(recipe, judges):
        known = name in catalogs.list_ids("classifiers")
        licence = catalogs.find_classifier(name).licence if known else None
        dumped = None if licence is None else licence.model_dump(mode="json")
        yield Term(user, take_name(name), dumped)
    for judge in judges:
        yield from judge.terms()
    for used in list_encoders(recipe, session):
        if used.spec.startswith("classifiers/"):  # the network is the classifier's own
            continue
        entry = _find_encoder(used.spec, used.weights, catalogs)
        dumped = None if entry is None else entry.licence.model_dump(mode="json")
        yield Term(used.used_by, take_name(used.weights), dumped)


def _list_conditioners(recipe: Recipe, session: Session) -> Iterator[Term]:
    """Yields the encoders that made what conditions hold: their terms reach the images."""
    for block in recipe.blocks:
        parts = (list_parts(name, session.catalogs) for name in block.encoders)
        for spec in (each for part in parts for each in part):
            weights = find_weights(spec, session.catalogs)
            entry = _find_encoder(spec, weights, session.catalogs)
            dumped = None if entry is None else entry.licence.model_dump(mode="json")
            yield Term("image_encoder", take_name(weights), dumped)


def _list_conditions(recipe: Recipe, session: Session) -> list[Term]:
    """Returns the terms of what conditions are made from; those of real images are the card's."""
    source = describe_source(recipe.card)
    found = (term for block in recipe.blocks for term in block.list_terms(source, session))
    looks = (term for block in recipe.blocks for term in list_look_terms(block, source, session))
    return drop_repeated([*found, *looks])


def _list_classifiers(recipe: Recipe, judges: Sequence[Filter]) -> Iterator[tuple[str, str]]:
    if recipe.generator.classifier_guidance is not None:
        yield GUIDE, recipe.generator.classifier_guidance.model
    for judge in judges:
        yield from ((f"filter {judge.name}", name) for name in judge.classifiers)


def _find_encoder(spec: str, weights: str, catalogs: Catalogs) -> EncoderEntry | None:
    """Returns the entry of an encoder by id, or of the same weights by another way."""
    entry = catalogs.get_encoder(spec)
    if entry is not None:
        return entry
    entries = (catalogs.find_encoder(name) for name in catalogs.list_ids("encoders"))
    return next((each for each in entries if find_source(each.source) == weights), None)
