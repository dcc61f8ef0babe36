"""Terms: phrases of captions and classes, and the public concepts that they name."""

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from factory.catalog.captions.grid import CatalogId
from factory.catalog.entries import Strict
from factory.core.hashing import compute_digest

if TYPE_CHECKING:
    import pyarrow as pa
_LETTER = r"[\w\u2010\u2011-]"
"""Of a word: hyphens belong to it, so that `non-tumor` names no tumor."""
_NOT = "no|non|without"


class Concept(Strict):
    """A concept of a public vocabulary, and phrases for it."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*:[A-Za-z0-9_.-]+$")]
    label: str = Field(min_length=1)
    synonyms: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class TermsEntry(Strict):
    """Phrases and the concepts that they name; a phrase names one."""

    id: CatalogId
    title: str = ""
    source: str = ""
    concepts: tuple[Concept, ...] = Field(min_length=1)

    @field_validator("concepts")
    @classmethod
    def _check_phrases(cls, concepts: tuple[Concept, ...]) -> tuple[Concept, ...]:
        owners: dict[str, str] = {}
        for concept in concepts:
            for phrase in (concept.label, *concept.synonyms):
                first = owners.setdefault(phrase.casefold(), concept.id)
                if first != concept.id:
                    raise ValueError(f"{phrase!r} names {first} and {concept.id}: keep one")
        return concepts

    @functools.cached_property
    def _phrases(self) -> tuple[Mapping[str, str], re.Pattern[str]]:
        known = {
            phrase.casefold(): concept.id
            for concept in self.concepts
            for phrase in (concept.label, *concept.synonyms)
        }
        longest = sorted(known, key=lambda phrase: (-len(phrase), phrase))
        return known, re.compile(
            rf"(?<!{_LETTER})(?:(?P<not>{_NOT})\s+)?"
            rf"(?P<phrase>{'|'.join(map(re.escape, longest))})(?!{_LETTER})"
        )

    def find_concepts(self, text: str) -> tuple[str, ...]:
        """Returns the ids of what a text names, sorted: whole words, the longest phrase first.

        A phrase with `no`, `non` or `without` right before it names nothing.
        """
        known, pattern = self._phrases
        found = (match for match in pattern.finditer(text.casefold()) if match["not"] is None)
        return tuple(sorted({known[match["phrase"]] for match in found}))

    def describe(self) -> dict[str, str]:
        """Returns the id, and a digest of concepts and phrases, which rows follow from."""
        concepts = self.model_dump(mode="json")["concepts"]
        return {"catalog": self.id, "sha256": compute_digest("terms", concepts)}


class Concepts:
    """The column that terms add to rows."""

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns the column and its type."""
        import pyarrow as pa

        names = pa.field("element", pa.string())  # the name that parquet gives items
        return {"concepts": pa.list_(names)}
