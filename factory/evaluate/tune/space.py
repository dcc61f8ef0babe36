"""What a search tries: choices of a recipe's fields, by default or from a file, and their draws."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from factory.catalog.entries import Fraction, PositiveFraction, Strict
from factory.core.errors import InputError, Problem, RecipeError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.core.yaml.model import parse_model
from factory.core.yaml.reader import Document, read_document
from factory.evaluate.fewshot.settings import Mix
from factory.evaluate.tune.asking import NO_FILTER, WAYS, Base, settle
from factory.recipe.file import load_recipe
from factory.recipe.recipe import Recipe

Configuration = Mapping[str, Any]
"""Key of the space -> choice; what has no effect is left out."""
SHAPELESS = frozenset({"name", "seed", "catalogs", "output", "workers", "card", "formats"})
"""Of a recipe: fields that shape no image, or that the search gives itself."""


def _refuse_twice(given: Any) -> Any:
    if given is not None and len({json.dumps(each) for each in given}) < len(given):
        raise ValueError("name each choice once")
    return given


Listed = (Field(min_length=1), AfterValidator(_refuse_twice))
Count = Annotated[int, Field(ge=1, le=100_000)]
Name = Literal[
    "variations",
    "guided",
    "adapted",
    "token",
    "stained",
    "translated",
    "neighbours",
    "between",
]


class OwnKeys(Strict):
    """Keys of a space that are no field of a recipe."""

    strength: Annotated[tuple[PositiveFraction, ...] | None, *Listed] = None
    way: Annotated[tuple[Name, ...] | None, *Listed] = None
    filter: Annotated[tuple[Literal["none"] | Fraction, ...] | None, *Listed] = None
    mix: Annotated[tuple[Mix, ...] | None, *Listed] = None
    per_class: Annotated[tuple[Count, ...] | None, *Listed] = None


@dataclass(frozen=True)
class Space:
    """Key -> choices."""

    choices: Mapping[str, tuple[Any, ...]]

    @property
    def most(self) -> int | None:
        """The most images of a class that are asked for."""
        return max(self.choices.get("per_class", ()), default=None)

    @property
    def strictest(self) -> float | str:
        """The filter whose run holds every candidate that the other choices need."""
        found = [each for each in self.choices.get("filter", ()) if each != NO_FILTER]
        return max(found, default=NO_FILTER)

    def draw(self, base: Base, count: int) -> list[dict[str, Any]]:
        """Draws configurations without replacement (random search, Bergstra & Bengio 2012).

        The order of choices and keys does not matter. Those that share their images follow each
        other, as making them is what costs.

        Args:
            base: the recipe, whose seed draws.
            count: at most so many.
        """
        found = {_identify(each): each for each in self._list_all(base)}
        seed = base.recipe.seed
        ranked = sorted(found, key=lambda name: compute_digest("tune draw", [seed, name]))[:count]
        groups: dict[str, list[dict[str, Any]]] = {}
        for name in ranked:
            made = {k: v for k, v in found[name].items() if k not in ("mix", "filter", "per_class")}
            groups.setdefault(_identify(made), []).append(found[name])
        return [each for group in groups.values() for each in group]

    def count(self, base: Base) -> int:
        """Returns how many different configurations there are."""
        return len({_identify(each) for each in self._list_all(base)})

    def _list_all(self, base: Base) -> Iterator[dict[str, Any]]:
        for chosen in itertools.product(*self.choices.values()):
            yield settle(dict(zip(self.choices, chosen, strict=True)), base)


def _identify(configuration: Configuration) -> str:
    return compute_digest("tune configuration", dict(sorted(configuration.items())))


def build_default(base: Base) -> Space:
    """Returns what is tried where no file says it: what the recipe and its model can do."""
    choices: dict[str, tuple[Any, ...]] = {}
    if base.varying:
        choices["strength"] = (0.3, 0.5, 0.7, 0.85)
    ways = tuple(name for name, way in WAYS.items() if not way.explain_missing(base))
    if ways:
        choices["way"] = ways
    if base.fitted:
        choices["filter"] = (NO_FILTER, 0.0, 0.7)
    choices["mix"] = ("pooled", "balanced")
    if base.is_counted:
        choices["per_class"] = (15, 30, 60)
    return Space(choices)


def read_space(path: Path, base: Base) -> Space:
    """Reads a space: a mapping of keys to lists of choices.

    Raises:
        RecipeError: every problem, with file, line and field.
    """
    document = read_document(path)
    of_recipe = {name for name in document.data if _find_head(name) in Recipe.model_fields}
    own = {name: each for name, each in document.data.items() if name not in of_recipe}
    if not document.data:
        raise RecipeError((document.make_problem((), "names nothing to try: add key: [choices]"),))
    problems = []
    try:
        parse_model(Document(own, document.positions, document.file), OwnKeys)
    except RecipeError as error:
        problems += [_advise(each) for each in error.problems]
    for name in document.data:
        given = document.data[name]
        if name in of_recipe:
            problems += _check_field(document, name, given, base)
        elif not problems:
            problems += _check_own(document, name, given, base)
    if problems:
        raise RecipeError(tuple(sorted(problems, key=lambda each: (each.line or 0, each.field))))
    return Space({name: tuple(each) for name, each in document.data.items()})


def _find_head(name: str) -> str:
    return name.replace("[", ".").partition(".")[0]


def _advise(problem: Problem) -> Problem:
    """Says what may stand there, where a key is known to nobody."""
    known = [*OwnKeys.model_fields, *sorted(set(Recipe.model_fields) - SHAPELESS)]
    if problem.field in OwnKeys.model_fields or "[" in problem.field:
        return problem
    message = f"no such key: {advise(problem.field, known, 20)}, or a field of the recipe"
    return Problem(problem.field, message, problem.file, problem.line, problem.column)


def _check_own(document: Document, name: str, given: Any, base: Base) -> Iterator[Problem]:
    """Yields what the recipe or its model cannot do."""
    for place, each in enumerate(given):
        why = ""
        if name == "way":
            why = WAYS[each].explain_missing(base)
        elif name == "strength" and not base.varying:
            why = "no condition of the recipe has a strength: remove it"
        elif name == "filter" and not base.fitted:
            why = "the recipe has no classifier filter: add one, or remove this key"
        elif name == "per_class" and not base.is_counted:
            why = "takes a recipe of one condition: remove this key"
        elif name == "mix" and each == "two-stage" and not base.descends:
            why = "heads without gradient descent know no stages: add sgd or network to --heads"
        if why:
            yield document.make_problem((name, place), f"{each!r}: {why}")


def _check_field(document: Document, name: str, given: Any, base: Base) -> Iterator[Problem]:
    """Yields what a recipe does not take."""
    if not isinstance(given, list) or not given:
        yield document.make_problem((name,), f"must be a list of choices, got {given!r}")
        return
    if _find_head(name) in SHAPELESS:
        yield document.make_problem((name,), "shapes no image, or is given by tune: remove it")
        return
    for place, each in enumerate(given):
        try:
            load_recipe(base.path, (*base.overrides, f"{name}={json.dumps(each)}"))
        except RecipeError as error:
            for problem in error.problems:
                text = f"{json.dumps(each)}: {problem.field}: {problem.message}"
                yield document.make_problem((name, place), text)
        except InputError as error:
            yield document.make_problem((name, place), f"{json.dumps(each)}: {error}")
