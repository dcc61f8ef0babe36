"""Terms: phrases of captions and classes, and the public concepts that they name."""

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from factory.catalog.captions.grid import CatalogId
from factory.catalog.entries import Strict

if TYPE_CHECKING:
    import pyarrow as pa


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
        return known, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def find_concepts(self, text: str) -> tuple[str, ...]:
        """Returns the ids of what a text names, sorted: whole words, the longest phrase first."""
        known, pattern = self._phrases
        return tuple(sorted({known[found] for found in pattern.findall(text.casefold())}))


class Concepts:
    """The column that terms add to rows."""

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns the column and its type."""
        import pyarrow as pa

        names = pa.field("element", pa.string())  # the name that parquet gives items
        return {"concepts": pa.list_(names)}
