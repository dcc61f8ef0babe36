"""Pairs of images: a source and its translation, members of a family; which shows more of what."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.catalog.words import MPP
from factory.data.family import LOOKS
from factory.publish.words.balance import YES, draw
from factory.publish.words.facts import (
    CONTRADICTED,
    NEAR,
    OTHER_SCALE,
    UNDEFINED,
    UNNAMED,
)
from factory.publish.words.known import Fact
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.questions import ALONE, Asker
from factory.publish.words.statements import Facts, Statement

FAMILY, TRANSLATION = "family", "translation"
SOURCE = "#source"
"""Ends the name of the source of a row."""
_FACT_OF = {"scale": MPP}
"""Stream that a family varies -> the fact that tells it."""


@dataclass(frozen=True)
class Member:
    """One image of a pair: its row (SOURCE behind it: what that translates), and what is known.

    Attributes:
        name: sample id of its row, with SOURCE behind it where it is what that translates.
        file_name: below the folder of images.
        measures: measure -> number.
        facts: of its row.
    """

    name: str
    file_name: str
    measures: Mapping[str, float]
    facts: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, str]:
        """Returns its names."""
        return {"name": self.name, "file_name": self.file_name}


@dataclass
class Pair:
    """Two images in the order in which they are shown."""

    kind: str
    members: tuple[Member, Member]
    facts: dict[str, Fact] = field(default_factory=dict)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """What its draws follow from, whatever their order."""
        return name_pair(each.name for each in self.members)


def pair_translation(made: Member, real: Member, lexicon: Lexicon, seed: int) -> Pair:
    """Returns a translated image and its source, in a drawn order."""
    pair = _order(TRANSLATION, (made, real), seed)
    places = _list_places(lexicon)
    told = dict(zip(places, pair.members, strict=True))
    more = {
        "made": next(place for place, each in told.items() if each is made),
        "real": next(place for place, each in told.items() if each is real),
    }
    pair.facts["relation"] = Fact("relation", TRANSLATION, "asked", "of the row", "", more)
    _compare(pair, lexicon)
    return pair


def pair_family(
    members: Sequence[Member],
    varied: tuple[str, Mapping[str, str]],
    lexicon: Lexicon,
    seed: int,
) -> Iterator[Pair]:
    """Yields neighbours of a family, and its first with its last.

    Args:
        members: in the order of their rows.
        varied: what is varied, and the value of each member by its name.
        lexicon: what is said.
        seed: of the order in which two are shown.
    """
    name, values = varied
    ends = [(members[0], members[-1])] if len(members) > 2 else []
    for two in [*itertools.pairwise(members), *ends]:
        pair = _order(FAMILY, two, seed)
        asked = [values[each.name] for each in pair.members]
        told = {"varied": name, "asked": asked}
        _compare(pair, lexicon)
        fault = _find_fault(name, asked, pair, lexicon)
        if fault is None:
            rule = "of the rows' family; seed and all else are the same"
            pair.facts["relation"] = Fact("relation", FAMILY, "asked", rule, "", told)
            pair.facts["varied"] = Fact("varied", name, "asked", rule, "", told)
        else:
            pair.passed[f"varied:{name}", fault] += 1
        yield pair


def _find_fault(name: str, asked: Sequence[str], pair: Pair, lexicon: Lexicon) -> str | None:
    """Says why what two members differ in is not told; None: it is."""
    pairs = lexicon.entry.pairs
    if pairs is None or name not in pairs.varied.names:
        return UNNAMED
    if name in LOOKS:  # one image in two stains: told where any measure of it moved
        return None if asked[0] != asked[1] and pair.facts else NEAR
    cut = lexicon.cuts.get(name)
    return _find_named(name, pair) if cut is None else _find_level(name, asked, pair, lexicon)


def _find_named(name: str, pair: Pair) -> str | None:
    what = _FACT_OF.get(name, name)
    found = [each.facts.get(what, {}).get("value") for each in pair.members]
    if None in found:
        return UNDEFINED
    return CONTRADICTED if found[0] == found[1] else None


def _find_level(name: str, asked: Sequence[str], pair: Pair, lexicon: Lexicon) -> str | None:
    cut = lexicon.cuts[name]
    values = list(lexicon.attributes[name])
    first, second = (each.measures.get(cut.by) for each in pair.members)
    if first is None or second is None or not set(asked) <= set(values):
        return UNDEFINED
    wanted = values.index(asked[1]) - values.index(asked[0])
    if abs(second - first) < 2 * cut.margin:
        return NEAR
    return None if (second > first) == (wanted > 0) else CONTRADICTED


def _order(kind: str, two: Sequence[Member], seed: int) -> Pair:
    first, second = two
    is_turned = draw(seed, name_pair(each.name for each in two), "pair", among=2) == 1
    low, high = sorted((first, second), key=lambda each: each.name)
    return Pair(kind, (high, low) if is_turned else (low, high))


def _list_places(lexicon: Lexicon) -> tuple[str, str]:
    pairs = lexicon.entry.pairs
    assert pairs is not None
    return pairs.places


def _compare(pair: Pair, lexicon: Lexicon) -> None:
    """Tells which of the two has more of each level, where they differ by two margins or more."""
    assert lexicon.entry.pairs is not None
    for name in lexicon.entry.pairs.compare:
        cut = lexicon.cuts.get(name)
        if cut is None:
            continue
        first, second = (each.measures.get(cut.by) for each in pair.members)
        if first is None or second is None:
            pair.passed[f"more:{name}", UNDEFINED] += 1
            continue
        if cut.mpp is not None and not _have_one_scale(pair):
            pair.passed[f"more:{name}", OTHER_SCALE] += 1
            continue
        apart, least = round(abs(second - first), 4), round(2 * cut.margin, 4)
        if apart < least or not apart:
            pair.passed[f"more:{name}", NEAR] += 1
            continue
        value = _list_places(lexicon)[int(second > first)]
        more = {"measure": cut.by, "numbers": [first, second], "margin": least}
        more["distance"] = round(apart - least, 4)
        rule = f"{cut.by} differs by {apart:g} >= {least:g}"
        pair.facts[f"more:{name}"] = Fact(f"more:{name}", value, "measured", rule, "", more)


def name_pair(names: Iterable[str]) -> str:
    """Returns what the draws of a pair follow from, whatever the order of its images."""
    return " ".join(sorted(names))


def _have_one_scale(pair: Pair) -> bool:
    """Whether lengths in px can be compared: a source and its translation, or one asked scale."""
    scales = [each.facts.get(MPP, {}).get("value") for each in pair.members]
    return pair.kind == TRANSLATION or scales[0] == scales[1]


def ask_pair(asker: Asker, split: str, name: str, facts: Facts) -> list[Statement]:
    """Returns the questions about two images.

    Args:
        asker: what draws them.
        split: of the images.
        name: of the pair.
        facts: of the two.
    """
    entry = asker.lexicon.entry.pairs
    found: list[Statement] = []
    assert entry is not None
    for what, fact in facts.items():
        kind, _, of = what.partition(":")
        common: dict[str, Any] = {"about": what, "facts": (what,)}
        if kind == "more":
            compare = entry.compare[of]
            template = asker.pick(name, compare.which, what)
            words = {"place": str(fact["value"])}
            found.append(
                Statement(**common, kind="open", template=template, words=words, reply=entry.answer)
            )
            truth = asker.balance.choose(split, name, what)
            if truth is not None:
                one = next(
                    each for each in entry.places if (each == fact["value"]) == (truth == YES)
                )
                other = next(each for each in entry.places if each != one)
                template = asker.pick(name, compare.more, what, "more")
                words = {"one": one, "other": other}
                found.append(
                    Statement(**common, kind="yes/no", template=template, words=words, tested=one)
                )
            continue
        found += _ask_other(asker, name, fact, facts)
    return [each.filled(facts) for each in found]


def _ask_other(
    asker: Asker, name: str, fact: Mapping[str, Any], facts: Facts
) -> Iterator[Statement]:
    """Yields how two images are related, and what was varied, among what does not differ too."""
    entry, kind = asker.lexicon.entry.pairs, fact["what"]
    assert entry is not None
    common: dict[str, Any] = {"about": kind, "facts": (kind,)}
    if kind == "relation":
        reply = asker.pick(name, getattr(entry.relation, fact["value"]), kind)
        slots = {slot: str(fact[slot]) for slot in ("made", "real") if f"{{{slot}}}" in reply}
        if "{varied}" in reply:
            slots["varied"] = entry.varied.names[fact["varied"]]
        template = asker.pick(name, entry.relation.ask, kind, "ask")
        yield Statement(**common, kind="open", template=template, words=slots, reply=reply)
        return
    values = [each for each in entry.varied.names if f"more:{each}" not in facts]
    options = asker.choose(name, fact, values, (kind,))
    if len(options) < 2:
        asker.passed[kind, ALONE] += 1
        return
    template = asker.pick(name, entry.varied.ask, kind, "ask")
    yield Statement(**common, kind="choice", template=template, options=options)
