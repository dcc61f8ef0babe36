"""What a configuration asks of a recipe: ways to make images of shots, and a filter's threshold."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.entries import ModelEntry
from factory.core.yaml.reader import read_document
from factory.evaluate.fewshot.generate import AT_SHOTS
from factory.evaluate.fewshot.settings import Making
from factory.evaluate.tune.settings import TuneSettings
from factory.filters import FILTERS
from factory.models.generators.families import FAMILIES
from factory.recipe.file import LoadedRecipe, find_shipped, load_recipe
from factory.recipe.recipe import Recipe

NO_FILTER = "none"
OTHER_FILTER = "color-texture"
"""Encoder of the classifier that filters where the usual one guides, which would find what it
put there."""
OWN = frozenset({"strength", "way", "filter", "mix", "per_class"})
"""Keys that are no field of a recipe."""


@dataclass(frozen=True)
class Base:
    """The recipe that a search starts from, and what can be done with it.

    Attributes:
        path: its file.
        overrides: `--set`.
        loaded: it, so overridden.
        model: catalog entry of the model, or of the one that is adapted.
        settings: of the search.
    """

    path: Path
    overrides: tuple[str, ...]
    loaded: LoadedRecipe
    model: ModelEntry | None
    settings: TuneSettings

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.loaded.recipe

    @property
    def varying(self) -> list[int]:
        """Places of the conditions that have a strength."""
        return [n for n, b in enumerate(self.recipe.blocks) if hasattr(b.settings, "strength")]

    @property
    def fitted(self) -> list[str]:
        """Names of the filters that are fitted on shots."""
        return [each.name for each in self.recipe.filters if FILTERS.get(each.kind).fitted]

    @property
    def is_counted(self) -> bool:
        """Whether the images of each class can be set."""
        return len(self.recipe.conditions) == 1

    @property
    def descends(self) -> bool:
        """Whether a head is trained by gradient descent."""
        return bool({"sgd", "network"} & {*self.settings.heads})

    @property
    def is_guided(self) -> bool:
        """Whether the recipe has guidance of its own."""
        return self.recipe.generator.classifier_guidance is not None

    def set_filter(self, choice: float | str) -> list[str]:
        """Returns overrides of the filters that are fitted on shots."""
        found = []
        for each in self.recipe.filters:
            kind = FILTERS.get(each.kind)
            if kind.fitted is None:
                continue
            least = str(kind.scores[0].at_least)
            values = dict(kind.idle) if choice == NO_FILTER else {least: choice}
            given = each.model_dump(mode="json")
            values = {k: v for k, v in values.items() if v is not None or given[k] is not None}
            found += [f"filters.{each.name}.{k}={json.dumps(v)}" for k, v in values.items()]
        return found


def open_base(path: Path, settings: TuneSettings) -> Base:
    """Reads the recipe; who runs it checks what it names, once the shots are there.

    Raises:
        RecipeError: every problem found.
    """
    loaded = load_recipe(path, settings.overrides)
    session = loaded.session
    catalogs = session.catalogs if not settings.catalogs else _open(settings, loaded)
    model = catalogs.get_model(settings.adapt or loaded.recipe.generator.model)
    return Base(path, settings.overrides, loaded, model, settings)


def _open(settings: TuneSettings, loaded: LoadedRecipe) -> Any:
    from factory.core.files.paths import resolve_path
    from factory.evaluate.base import open_session

    own = [resolve_path(loaded.base, each) for each in loaded.recipe.catalogs]
    return open_session((*settings.catalogs, *own)).catalogs


@dataclass(frozen=True)
class Way:
    """A way to carry the class of shots into images.

    Attributes:
        about: in words.
        explain_missing: says why a recipe or its model does not know it; "" where it does.
        list_overrides: of the recipe.
        adapts: whether the model is adapted to the shots first.
        leads: whether a classifier leads the sampling.
        replaces: whether one condition of its own stands for those of the recipe.
        ignores: keys that have no effect.
    """

    about: str
    explain_missing: Callable[[Base], str]
    list_overrides: Callable[[Base], list[str]]
    adapts: bool = False
    leads: bool = False
    replaces: bool = False
    ignores: frozenset[str] = frozenset()


def _need_reference(base: Base) -> str:
    return "" if base.varying else "no condition of the recipe varies shots: add one of reference"


def _need_guide(base: Base) -> str:
    family = base.model and FAMILIES.get(base.model.family)
    if not family or not family.guidable:
        return "no classifier can lead this model: take one of family flow"
    return _need_reference(base)


def _need_adaptation(base: Base) -> str:
    return "" if base.settings.adapt else "give --adapt BASE, the model that is adapted"


def _vary(base: Base) -> list[str]:
    return ["generator.classifier_guidance=null"] if base.is_guided else []


def _guide(base: Base) -> list[str]:
    own = json.dumps({"model": AT_SHOTS})
    return [] if base.is_guided else [f"generator.classifier_guidance={own}"]


def _need_unlabelled(base: Base) -> str:
    return "" if base.settings.unlabelled else "give --unlabelled DIR, images of other slides"


def _need_embedding(base: Base) -> str:
    takes = () if base.model is None else (*base.model.required, *base.model.optional)
    return "" if "embedding" in takes else "the model takes no embedding: name one that does"


def _borrow(recipe: str, place: str = "") -> Callable[[Base], list[str]]:
    """Returns what asks for the conditions of a recipe that ships.

    What compares images with real ones, and `dedup`, go where that recipe has none: they look
    through stains, and would take each image in another stain for its shot.

    Args:
        recipe: its name.
        place: field of its conditions that takes unlabelled images, if one does.
    """

    def ask(base: Base) -> list[str]:
        shipped = read_document(find_shipped(recipe)).data
        block = dict(shipped["conditions"][0])
        fits = (getattr(each.settings, "fit", None) for each in base.recipe.blocks)
        fit = next(filter(None, fits), None)
        block |= {"fit": fit} if fit else {}
        kinds = {each["kind"] for each in shipped["filters"]}
        written = base.loaded.document.data.get("filters", ())
        pairs = zip(base.recipe.filters, written, strict=True)
        kept = [(e, raw) for e, raw in pairs if not hasattr(e, "images") or e.kind in kinds]
        overrides = [f"filters={json.dumps([raw for _, raw in kept])}"]
        overrides += ["dedup=null"] if "dedup" not in shipped else []
        overrides += _ask_blocks(base, block, [each for each, _ in kept])
        if place:
            told = json.dumps(str(Path(str(base.settings.unlabelled)).absolute()))
            overrides.append(f"conditions[0].{place}={told}")
        return overrides

    return ask


def _ask_token(base: Base) -> list[str]:
    return _ask_blocks(base, {"kind": "class", "per_class": 1}, base.recipe.filters)


def _ask_blocks(base: Base, block: Mapping[str, Any], filters: Sequence[Any]) -> list[str]:
    """Returns overrides of one condition; filters that would look for its shots are told them."""
    needs = [
        f"filters.{each.name}.images={json.dumps(AT_SHOTS)}"
        for each in filters
        if getattr(each, "images", AT_SHOTS) is None  # else those that conditions vary
    ]
    return [*_vary(base), f"conditions={json.dumps([block])}", *needs]


def _lend(description: str, ask: Callable[[Base], list[str]]) -> Way:
    """Returns a way of varying images that unlabelled ones have a part in."""
    return Way(
        description,
        lambda base: _need_unlabelled(base) or _need_reference(base),
        ask,
        replaces=True,
    )


WAYS: Mapping[str, Way] = {
    "variations": Way("variations of the shots", _need_reference, _vary),
    "guided": Way(
        "variations that a classifier of the shots leads", _need_guide, _guide, leads=True
    ),
    "adapted": Way(
        "variations by a model that is adapted to the shots",
        lambda base: _need_adaptation(base) or _need_reference(base),
        _vary,
        adapts=True,
    ),
    "token": Way(
        "the class token of a model that is adapted to the shots, no shot beside it",
        _need_adaptation,
        _ask_token,
        adapts=True,
        ignores=frozenset({"strength"}),
    ),
    "stained": _lend(
        "variations of the shots in the stains of unlabelled images",
        _borrow("few-shot-stains", "stains.images"),
    ),
    "translated": Way(
        "the shots, inverted and decoded in the look of unlabelled images",
        _need_unlabelled,
        _borrow("few-shot-translated", "to.domain"),
        ignores=frozenset({"strength"}),
    ),
    "neighbours": _lend(
        "variations of unlabelled images near the shots",
        _borrow("few-shot-neighbours", "unlabelled.images"),
    ),
    "between": Way(
        "embeddings from between shots of a class",
        _need_embedding,
        _borrow("few-shot-between"),
        ignores=frozenset({"strength"}),
    ),
}
"""By the names that a space knows them by."""


def settle(configuration: dict[str, Any], base: Base) -> dict[str, Any]:
    """Returns a configuration without what has no effect in its way."""
    way = WAYS.get(configuration.get("way", ""))
    ignored = way.ignores if way else frozenset()
    return {key: value for key, value in configuration.items() if key not in ignored}


def write_making(
    configuration: Mapping[str, Any], base: Base, threshold: float | str | None
) -> Making:
    """Returns how the images of a configuration are made.

    Args:
        configuration: key -> choice.
        base: the recipe.
        threshold: of the filters that are fitted on shots; None: as the recipe says.
    """
    settings = base.settings
    way = WAYS.get(configuration.get("way", ""))
    overrides = list(base.overrides)
    overrides += [] if way is None else way.list_overrides(base)
    if "strength" in configuration:
        value = configuration["strength"]
        places = [0] if way is not None and way.replaces else base.varying
        overrides += [f"conditions[{place}].strength={value}" for place in places]
    for name, value in configuration.items():
        if name not in OWN:
            overrides.append(f"{name}={json.dumps(value)}")
    if threshold is not None:
        overrides += base.set_filter(threshold)
    leads = base.is_guided if way is None else way.leads
    filters = settings.filter_encoder
    if leads and filters == settings.guide_encoder:
        filters = OTHER_FILTER
    return Making(
        recipe=base.path,
        fit_filter=bool(base.fitted) or leads,
        filter_encoder=filters,
        guide_encoder=settings.guide_encoder,
        adapt=settings.adapt if way is None or way.adapts else None,
        adapt_set=settings.adapt_set if way is None or way.adapts else (),
        overrides=tuple(overrides),
        catalogs=settings.catalogs,
    )
