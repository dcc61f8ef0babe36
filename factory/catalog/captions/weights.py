"""What of a caption grid says how often, and with what, a value occurs; and what is wrong in it."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Row = dict[str, Weight]
"""Value -> weight; a value that is left out has weight 0."""
Weights = dict[str, Row]
"""Attribute -> how often each value occurs."""
Given = dict[str, dict[str, dict[str, Row]]]
"""Attribute -> another attribute -> each value of that -> how often each value occurs."""
Rule = dict[str, tuple[str, ...]]
"""Attribute -> values: no caption says one value of each of them."""
Values = Mapping[str, Mapping[str, object]]
"""Attribute -> its values."""
Fault = tuple[FieldPath, str]


def find_parent(given: Given, name: str) -> str | None:
    """Returns the attribute that another depends on, if any."""
    return next(iter(given[name])) if name in given else None


def list_ancestors(given: Given, name: str) -> tuple[str, ...]:
    """Returns what an attribute depends on, the nearest first."""
    found: list[str] = []
    while (parent := find_parent(given, name)) is not None:
        found.append(parent)
        name = parent
    return tuple(found)


def find_weight_faults(values: Values, weights: Weights) -> Iterator[Fault]:
    """Yields unknown attributes and values, and weights that sum to 0, below `weights`."""
    for name, row in weights.items():
        if name not in values:
            yield (name,), f"is no attribute: {advise(name, tuple(values))}"
        else:
            yield from (((name, *at), what) for at, what in _find_row_faults(values[name], row))


def find_given_faults(values: Values, weights: Weights, given: Given) -> Iterator[Fault]:
    """Yields what is wrong in tables, below `given`: names, rows that are missing, circles."""
    for name, tables in given.items():
        if name not in values:
            yield (name,), f"is no attribute: {advise(name, tuple(values))}"
            continue
        if name in weights:
            yield (name,), "stands under weights too: remove one of them"
        if len(tables) != 1:
            others = ", ".join(tables) or "none"
            yield (name,), f"depends on exactly one other attribute, got {others}"
            continue
        parent, table = next(iter(tables.items()))
        if parent not in values:
            yield (name, parent), f"is no attribute: {advise(parent, tuple(values))}"
            continue
        for at, what in _find_table_faults(values, name, parent, table):
            yield (name, parent, *at), what
    yield from _find_circles(given)


def find_rule_faults(values: Values, rules: tuple[Rule, ...]) -> Iterator[Fault]:
    """Yields unknown names, and rules of a single attribute, below `never_together`."""
    for number, rule in enumerate(rules):
        if len(rule) < 2:
            yield (number,), "needs two attributes at least: to drop a value, remove it"
        for name, named in rule.items():
            if name not in values:
                yield (number, name), f"is no attribute: {advise(name, tuple(values))}"
                continue
            if not named:
                yield (number, name), f"names no value: {advise('', tuple(values[name]))}"
            for each in named:
                if each not in values[name]:
                    near = advise(each, tuple(values[name]))
                    yield (number, name), f"{name!r} has no value {each!r}: {near}"


def _find_row_faults(values: Mapping[str, object], row: Row) -> Iterator[Fault]:
    for value in row:
        if value not in values:
            yield (value,), f"is no value: {advise(value, tuple(values))}"
    if math.fsum(row.values()) <= 0:
        yield (), "sums to 0: give a value a weight above 0"


def _find_table_faults(
    values: Values, name: str, parent: str, table: Mapping[str, Row]
) -> Iterator[Fault]:
    for other, row in table.items():
        if other not in values[parent]:
            near = advise(other, tuple(values[parent]))
            yield (other,), f"{parent!r} has no value {other!r}: {near}"
            continue
        yield from (((other, *at), what) for at, what in _find_row_faults(values[name], row))
    missing = [each for each in values[parent] if each not in table]
    if missing:
        yield (), f"has no row for {parent} {', '.join(missing)}: add one for each value"


def _find_circles(given: Given) -> Iterator[Fault]:
    parents = {name: next(iter(tables)) for name, tables in given.items() if len(tables) == 1}
    for start in parents:
        way = [start]
        while way[-1] in parents and way[-1] not in way[:-1]:
            way.append(parents[way[-1]])
        if way[-1] == start:
            yield (start,), f"goes in a circle ({' -> '.join(way)}): give one of them weights"
