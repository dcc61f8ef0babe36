"""Whether a text says what a grid's caption says: all of its values, and none that it does not."""

import re
from collections.abc import Mapping
from typing import Protocol

from factory.catalog.terms import TermsEntry

_NOT = r"(?:no|not|non|without|lacks?|lacking|absent|absence of)"
_LETTER = r"[\w\u2010\u2011-]"


class Vocabulary(Protocol):
    """What has wordings: a caption grid, or what is said of images."""

    @property
    def attributes(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Attribute -> value -> its wordings; none: the name is the wording."""
        ...


def find_unfaithful(
    grid: Vocabulary,
    values: Mapping[str, str],
    text: str,
    terms: TermsEntry | None = None,
) -> str | None:
    """Says what a text drops, denies or adds of a grid's attributes; None: nothing.

    A value is said by any of its wordings, in whole words and any case, or where the text names
    every concept that one of its wordings names. What is said in the words of the caption's own
    values is not read again, so that `moderately dense nuclei` is no `dense nuclei`.

    Args:
        grid: the grid, or another vocabulary.
        values: attribute -> value that the caption says.
        text: what is to say the same.
        terms: phrases of concepts, whose synonyms are taken too.
    """
    left = " ".join(text.casefold().split())
    named = frozenset(terms.find_concepts(left) if terms is not None else ())
    dropped = None
    for name, value in values.items():
        wordings = sorted(grid.attributes[name][value] or (value,), key=len, reverse=True)
        found = [match for each in wordings if (match := find_phrase(each, left))]
        if any(match["no"] for match in found):
            return f"denies {name} {value}"
        if not found and not _is_named(wordings, named, terms):
            dropped = dropped or f"drops {name} {value}"
        for each in wordings:
            left = _compile(each).sub(" ; ", left)
    others = [
        (name, each)
        for name, known in grid.attributes.items()
        for value, texts in known.items()
        for each in texts or (value,)
        if values.get(name) != value and find_phrase(each, left)
    ]
    wrong = next(
        (f"contradicts {name} by {each!r}" for name, each in others if name in values), None
    )
    more = next((f"adds {name} by {each!r}" for name, each in others), None)
    return wrong or dropped or more


def _compile(phrase: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, phrase.casefold().split()))
    return re.compile(rf"(?<!{_LETTER})(?P<no>{_NOT}\s+)?{words}(?!{_LETTER})")


def find_phrase(phrase: str, text: str) -> re.Match[str] | None:
    """Returns where a text has a phrase, in whole words and any case; group `no` denies it."""
    return _compile(phrase).search(text.casefold())


def _is_named(wordings: list[str], named: frozenset[str], terms: TermsEntry | None) -> bool:
    if terms is None:
        return False
    concepts = (frozenset(terms.find_concepts(each)) for each in wordings)
    return any(each and each <= named for each in concepts)
