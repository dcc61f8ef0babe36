"""Which encoders judge a data set, and where one of them made the model that it judges."""

from collections.abc import Iterator
from dataclasses import dataclass

from factory.core.errors import FactoryError
from factory.data.provenance import FilterRecord
from factory.data.summary import Maker
from factory.filters import build_filters
from factory.models.classifiers.model import read_classifier_info
from factory.models.encoders import find_source, find_weights, list_parts
from factory.models.session import Session
from factory.recipe.recipe import Recipe, list_kept_encoders

ROLES = {
    "image_encoder": "conditions the generator",
    "text_encoder": "reads the generator's captions",
    "teacher": "taught the generator",
}
"""Role of a component -> what it does; a VAE only decodes and is no judge."""
GUIDE = "guiding classifier"
"""Who uses the classifier of `generator.classifier_guidance`; stands for a filter's kind, too."""


@dataclass(frozen=True, slots=True)
class UsedEncoder:
    """An encoder that decides what is kept, by the filter that uses it.

    `weights` is the Hub id, name or folder's last part: the same however the recipe names it.
    """

    used_by: str
    spec: str
    weights: str


def list_encoders(recipe: Recipe, session: Session) -> tuple[UsedEncoder, ...]:
    """Returns the encoders of filters, pick and stop; a classifier that is missing has none."""
    catalogs = session.catalogs
    found = [
        UsedEncoder(user, spec, find_weights(spec, catalogs).rstrip("/").rpartition("/")[2])
        if spec.startswith(("/", "."))
        else UsedEncoder(user, spec, find_weights(spec, catalogs))
        for user, spec in _list_specs(recipe, session)
    ]
    return tuple(dict.fromkeys(found))


def find_circles(recipe: Recipe, session: Session) -> tuple[str, ...]:
    """Returns a warning for each judge that is the generator's teacher or conditioner.

    Such a judge finds good what it has taught (the images are near to it by construction), so its
    scores say little about the images.
    """
    used_all = list_encoders(recipe, session)
    guides = {used.weights for used in used_all if used.used_by == GUIDE}
    guided = (
        f"{used.used_by} judges with {used.weights}, which guides the sampling: it finds what was "
        "put there for it; take another encoder"
        for used in used_all
        if used.weights in guides and used.used_by != GUIDE
    )
    parts = tuple(_list_makers(recipe, session))
    taught = (
        f"{used.used_by} judges with {used.weights}, which {what}: its scores are no independent "
        "judgement; take another encoder"
        for used in used_all
        for weights, what in parts
        if weights == used.weights
    )
    return tuple(dict.fromkeys((*guided, *taught)))


def _list_makers(recipe: Recipe, session: Session) -> Iterator[tuple[str, str]]:
    """Yields the weights that taught or condition the generator, and what they do."""
    try:
        entry = session.catalogs.get_model(recipe.generator.model)
    except FactoryError:
        entry = None
    name = recipe.generator.model if entry is None else entry.id
    for part in () if entry is None else entry.components:
        if part.role in ROLES:
            yield find_source(part.source), f"{ROLES[part.role]} {name}"
    for block in recipe.blocks:
        for spec in block.encoders:
            for each in list_parts(spec, session.catalogs):
                weights = find_weights(each, session.catalogs)
                yield weights, f"{ROLES['image_encoder']} {name}"


def list_guides(maker: Maker) -> list[FilterRecord]:
    """Returns what guided the sampling, of a worker's description, as filters are described."""
    guide = maker.generator.classifier_guidance
    return [] if guide is None else [FilterRecord(**{**guide, "kind": GUIDE})]


def _list_specs(recipe: Recipe, session: Session) -> Iterator[tuple[str, str]]:
    guidance = recipe.generator.classifier_guidance
    if guidance is not None:
        yield from _list_inner(GUIDE, guidance.model, session)
    for judge in build_filters(recipe.filters, session):
        name = f"filter {judge.name}"
        yield from ((name, spec) for spec in judge.encoders)
        for model in judge.classifiers:
            yield from _list_inner(name, model, session)
    yield from list_kept_encoders(recipe)


def _list_inner(user: str, model: str, session: Session) -> Iterator[tuple[str, str]]:
    """Yields the encoder inside a classifier, if it can be read."""
    try:
        info = read_classifier_info(session.find_classifier_folder(model))
    except FactoryError:
        return
    yield user, f"classifiers/{model}" if info.encoder == "." else info.encoder
