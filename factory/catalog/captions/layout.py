"""How a caption grid is laid out: templates, attributes that depend on each other, and wordings."""

import bisect
import functools
import itertools
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from factory.catalog.captions.weights import Given, Row, Rule, Weights, find_parent, list_ancestors

MOST_TIED = 100_000
"""Combinations of values that rules and tables may tie together in one template."""


Wordings = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Attribute -> value -> the ways to say it, one at least."""
Chosen = Mapping[str, tuple[str, str]]
"""Attribute -> its value, and the words for it."""


@dataclass(frozen=True)
class Tied:
    """Attributes of a template whose values depend on each other; mostly it is a single one.

    Attributes:
        names: the attributes, in the order of the template.
        wordings: all of each attribute.
        combinations: values that may stand together, in the order of `names`.
        shares: how often each combination is asked for; sums to 1.
    """

    names: tuple[str, ...]
    wordings: Wordings
    combinations: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Captions up to the end of each combination: it has as many as its wordings give."""
        return tuple(itertools.accumulate(map(self._count, self.combinations)))

    @property
    def size(self) -> int:
        """Ways to say any of the combinations."""
        return self.ends[-1]

    def choose(self, digit: int) -> dict[str, tuple[str, str]]:
        """Returns value and words of each attribute, the last one changing fastest."""
        place = bisect.bisect_right(self.ends, digit)
        rest = digit - (self.ends[place - 1] if place else 0)
        found: dict[str, tuple[str, str]] = {}
        for name, value in reversed([*zip(self.names, self.combinations[place], strict=True)]):
            known = self.wordings[name][value]
            rest, each = divmod(rest, len(known))
            found[name] = value, known[each]
        return found

    def _count(self, combination: tuple[str, ...]) -> int:
        pairs = zip(self.names, combination, strict=True)
        return math.prod(len(self.wordings[name][value]) for name, value in pairs)


@dataclass(frozen=True)
class Template:
    """One template of a grid.

    Attributes:
        text: with attributes in braces.
        wordings: of each attribute that it names, in its order.
        tied: these attributes, those together that depend on each other.
        rules: what it cannot say together.
    """

    text: str
    wordings: Wordings
    tied: tuple[Tied, ...]
    rules: tuple[Rule, ...]

    @functools.cached_property
    def size(self) -> int:
        """Number of captions."""
        return math.prod(each.size for each in self.tied)

    def fill(self, chosen: Chosen) -> tuple[str, dict[str, str]]:
        """Returns the caption in these words, and the value of each attribute in it."""
        texts = {name: text for name, (_, text) in chosen.items()}
        return self.text.format_map(texts), {name: chosen[name][0] for name in self.wordings}

    def allows(self, values: Mapping[str, str]) -> bool:
        """Whether no rule forbids values that it would say together."""
        return not _is_forbidden(self.rules, values)


def _is_forbidden(rules: Sequence[Rule], values: Mapping[str, str]) -> bool:
    return any(all(values.get(name) in named for name, named in rule.items()) for rule in rules)


def lay_out(
    templates: Sequence[str],
    attributes: Mapping[str, Mapping[str, tuple[str, ...]]],
    weights: Weights,
    given: Given,
    rules: Sequence[Rule],
) -> tuple[Template, ...]:
    """Returns the templates with what may fill them.

    Raises:
        ValueError: a template that can say nothing, or ties together more than MOST_TIED.
    """
    wordings = {
        name: {value: texts or (value,) for value, texts in values.items()}
        for name, values in attributes.items()
    }
    return tuple(_lay_out(text, wordings, weights, given, rules) for text in templates)


def list_attributes(template: str) -> tuple[str, ...]:
    """Returns the names in braces, once each, in order.

    Raises:
        ValueError: braces that hold no plain name.
    """
    names: dict[str, None] = {}
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        message = f"template {template!r}: {error}: braces take an attribute's name"
        raise ValueError(message) from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not re.fullmatch(r"\w+", name):
            raise ValueError(f"template {template!r}: braces take an attribute's name only")
        names[name] = None
    return tuple(names)


def _lay_out(
    text: str, wordings: Wordings, weights: Weights, given: Given, rules: Sequence[Rule]
) -> Template:
    named = list_attributes(text)
    mine = tuple(rule for rule in rules if rule.keys() <= set(named))
    links = [tuple(rule) for rule in mine]
    links += [(name, *list_ancestors(given, name)) for name in named]
    tied: list[Tied] = []
    for group in _join(links):
        names = tuple(name for name in named if name in group)
        count = math.prod(len(wordings[name]) for name in group)
        if count > MOST_TIED:
            raise ValueError(
                f"template {text!r} ties {count:,} combinations of {', '.join(sorted(group))}: "
                f"at most {MOST_TIED:,} work: split the template, or tie fewer attributes"
            )
        rows = {name: _order_row(weights.get(name), wordings[name]) for name in group}
        shares = {
            combination: share
            for combination, share in _share(names, rows, given).items()
            if share and not _is_forbidden(mine, dict(zip(names, combination, strict=True)))
        }
        if not shares:
            raise ValueError(
                f"template {text!r} can say nothing of {', '.join(names)}: never_together, "
                "weights and given leave no value: change them or the template"
            )
        total = math.fsum(shares.values())
        kept = tuple(share / total for share in shares.values())
        parts = {name: wordings[name] for name in names}
        tied.append(Tied(names, parts, tuple(shares), kept))
    tied.sort(key=lambda each: named.index(each.names[0]))
    return Template(text, {name: wordings[name] for name in named}, tuple(tied), mine)


def _order_row(row: Row | None, values: Iterable[str]) -> Row:
    """Returns the weight of each value in the grid's order, which a row's own must not change."""
    return {value: 1.0 if row is None else row.get(value, 0.0) for value in values}


def _join(links: Sequence[tuple[str, ...]]) -> list[set[str]]:
    """Returns the groups of names that links hold together."""
    groups: list[set[str]] = []
    for link in links:
        touched = [group for group in groups if group & set(link)]
        groups = [group for group in groups if group not in touched]
        groups.append(set(link).union(*touched))
    return groups


def _share(
    names: tuple[str, ...], rows: Mapping[str, Row], given: Given
) -> dict[tuple[str, ...], float]:
    """Returns how often values of `names` stand together, summed over the other attributes."""
    everyone = (*names, *sorted(rows.keys() - set(names)))
    found: dict[tuple[str, ...], float] = {}
    for combination in itertools.product(*(rows[name] for name in everyone)):
        chosen = dict(zip(everyone, combination, strict=True))
        share = 1.0
        for name in everyone:
            parent = find_parent(given, name)
            row = rows[name] if parent is None else given[name][parent][chosen[parent]]
            share *= row.get(chosen[name], 0.0) / math.fsum(row.values())
        key = combination[: len(names)]
        found[key] = found.get(key, 0.0) + share
    return found
