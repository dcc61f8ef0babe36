"""Terms of one maker of a data set, and what those of all makers together leave it to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from factory.catalog.licences.known import UNANSWERED, find_known

Restriction = Literal[
    "unanswered",
    "dataset_generation",
    "redistribution_of_outputs",
    "training_on_outputs",
    "commercial_use",
    "derivatives",
    "share_alike",
    "attribution",
    "use_restrictions",
]

SAYS: Mapping[Restriction, str] = {
    "unanswered": "nobody has read the terms: fill in licence of its catalog entry",
    "dataset_generation": "no data set may be made of it without written approval",
    "redistribution_of_outputs": "must not be passed on",
    "training_on_outputs": "must not be used to train models",
    "commercial_use": "no commercial use",
    "derivatives": "no derivatives",
    "share_alike": "only under the same licence",
    "attribution": "its makers must be named",
    "use_restrictions": "uses that its licence lists are forbidden, and the list passes on",
}
"""Restriction -> what it means for the data set, the gravest first."""

STATED: tuple[Restriction, ...] = (
    "commercial_use",
    "redistribution_of_outputs",
    "training_on_outputs",
    "dataset_generation",
)
"""What a catalog entry may state, and whose absence is told as `not stated`."""

SOURCE_IMAGES = "source images"
SOURCE_MASKS = "source masks"
SOURCE_SHAPES = "source shapes"
SOURCES = (SOURCE_IMAGES, SOURCE_MASKS, SOURCE_SHAPES)
"""Roles of what itself, changed, is in the data set; a model only makes it."""
INDIRECT = ("teacher", "filter", "pick", "stop", "classifier")
"""Beginnings of the roles that leave no trace in pixels: they teach, judge or choose."""


@dataclass(frozen=True, slots=True)
class Term:
    """The terms of one maker.

    Attributes:
        role: what it did, e.g. `generator`, `image_encoder`, `adapter`, `source images`.
        name: catalog id, Hub id or last part of a path.
        licence: plain `LicenceTerms` as read at generation time; None: nothing was recorded.
    """

    role: str
    name: str
    licence: Mapping[str, Any] | None

    @property
    def id(self) -> str:
        """Licence id, or `not recorded`."""
        return "not recorded" if self.licence is None else str(self.licence["id"])

    @property
    def is_indirect(self) -> bool:
        """Whether it taught or judged what was made, instead of making it."""
        return self.role.startswith(INDIRECT)

    @property
    def reaches(self) -> bool:
        """Whether its restrictions bind the data set; those of a judge only where they say so."""
        said = None if self.licence is None else self.licence.get("reaches_datasets")
        return not self.is_indirect if said is None else bool(said)

    def read(self, flag: Restriction) -> bool | None:
        """Returns what the terms say of a use: the entry's own word, else its licence's, else None.

        `share_alike`, `attribution` and `use_restrictions` are demands: True means demanded.
        """
        if self.licence is None:
            return None
        own = self.licence.get(flag)
        if isinstance(own, bool):
            return own
        known, is_source = find_known(self.licence["id"]), self.role in SOURCES
        by_licence: Mapping[Restriction, bool | None] = {
            "commercial_use": known.commercial_use,
            # Of images, changed copies are passed on; of a model, what it makes.
            "redistribution_of_outputs": known.adaptations if is_source else known.outputs,
            "derivatives": known.adaptations,
            "share_alike": known.share_alike,
            "use_restrictions": known.use_restrictions,
            "attribution": known.attribution and is_source,
        }
        return by_licence.get(flag, True if known.public_domain else None)

    def cite(self) -> str:
        """Returns the licence with date, page and note: `cc-by-4.0, as read on …, https://…: …`."""
        licence = self.licence or {}
        dated = f"as read on {licence['date_read']}" if licence.get("date_read") else ""
        text = ", ".join(part for part in (self.id, dated, licence.get("url")) if part)
        note = " ".join(str(licence.get("note") or "").split())
        return f"{text}: {note}" if note else text


@dataclass(frozen=True, slots=True)
class Limit:
    """One restriction of the data set, and the maker whose terms cause it."""

    restriction: Restriction
    term: Term

    def __str__(self) -> str:
        cause = f"{self.term.role} {self.term.name} ({self.term.cite()})"
        return f"{SAYS[self.restriction]}: by the terms of the {cause}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a data set may be, by the terms of all its makers.

    Attributes:
        limits: restrictions with their causes, the gravest first.
        cautions: terms of judges that restrict, without saying whether they reach the data set.
        unstated: what the terms of makers leave open, in words.
        attribution: whom to name.
    """

    limits: tuple[Limit, ...]
    cautions: tuple[Limit, ...]
    unstated: tuple[str, ...]
    attribution: tuple[str, ...]

    def find(self, restriction: Restriction) -> tuple[Limit, ...]:
        """Returns the causes of one restriction; none: it does not hold."""
        return tuple(each for each in self.limits if each.restriction == restriction)

    @property
    def restrictions(self) -> tuple[Restriction, ...]:
        """The restrictions that hold, each once, the gravest first."""
        return tuple(dict.fromkeys(each.restriction for each in self.limits))

    def describe(self) -> tuple[str, ...]:
        """Returns the verdict as lines for people."""
        lines = [str(limit) for limit in self.limits]
        if not lines:
            is_open = self.unstated or self.cautions
            lines = ["no restriction is recorded" + (", but not all is stated:" if is_open else "")]
        lines += [
            f"{limit}; not stated whether this reaches what it only judged or taught"
            for limit in self.cautions
        ]
        return (*lines, *self.unstated, *(f"attribution: {text}" for text in self.attribution))

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return {
            "restrictions": list(self.restrictions),
            "limits": [_to_json(each) for each in self.limits],
            "cautions": [_to_json(each) for each in self.cautions],
            "not_stated": list(self.unstated),
            "attribution": list(self.attribution),
        }


def combine_terms(components: Sequence[Term]) -> Permissions:
    """Combines the terms of all makers: what one forbids, the data set must not be."""
    terms = tuple(drop_repeated(components))
    limits = [
        Limit(restriction, term)
        for restriction in SAYS
        for term in terms
        if _restricts(term, restriction)
    ]
    attribution = [text for term in terms for text in (term.licence or {}).get("attribution", ())]
    return Permissions(
        tuple(each for each in limits if each.term.reaches),
        tuple(each for each in limits if not each.term.reaches and _is_grave(each)),
        tuple(text for term in terms if (text := _say_unstated(term))),
        tuple(dict.fromkeys(attribution)),
    )


def drop_repeated(terms: Sequence[Term]) -> list[Term]:
    """Returns the terms, each once, in order."""
    kept: list[Term] = []
    for term in terms:
        if term not in kept:
            kept.append(term)
    return kept


def _restricts(term: Term, restriction: Restriction) -> bool:
    if restriction == "unanswered":
        return term.id == UNANSWERED
    said = term.read(restriction)
    if restriction in ("share_alike", "attribution", "use_restrictions"):
        return said is True
    return said is False


def _is_grave(limit: Limit) -> bool:
    return limit.restriction in STATED


def _say_unstated(term: Term) -> str:
    """Says what a maker's terms leave open; of a judge only that nothing at all is recorded."""
    if term.licence is None:
        return f"terms of the {term.role} {term.name}: not stated (nothing is recorded)"
    if term.is_indirect and not term.reaches:
        return ""
    said: tuple[Restriction, ...] = STATED
    if term.role in SOURCES:
        said = ("commercial_use", "redistribution_of_outputs")
    open_ones = [name.replace("_", " ") for name in said if term.read(name) is None]
    if not open_ones:
        return ""
    return f"terms of the {term.role} {term.name} ({term.id}): {', '.join(open_ones)}: not stated"


def _to_json(limit: Limit) -> dict[str, Any]:
    return {
        "restriction": limit.restriction,
        "says": SAYS[limit.restriction],
        "role": limit.term.role,
        "name": limit.term.name,
        "licence": None if limit.term.licence is None else dict(limit.term.licence),
    }
