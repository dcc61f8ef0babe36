"""Stains: what the tissue of real slides looks like, by name."""

from typing import Any

from pydantic import Field, field_validator

from factory.catalog.captions.grid import CatalogId
from factory.catalog.entries import LicenceTerms, Strict
from factory.core.errors import CatalogError
from factory.core.stain_transfer import StainLook
from factory.core.yaml.messages import advise

Three = tuple[float, float, float]


class NamedLook(Strict):
    """The stain of a slide: of its tissue in l, alpha, beta (Reinhard et al. 2001)."""

    name: CatalogId
    mean: Three
    spread: Three = Field(description="standard deviations, above 0")

    @field_validator("spread")
    @classmethod
    def _check_spread(cls, spread: Three) -> Three:
        if min(spread) <= 0:
            raise ValueError(f"must be above 0, got {list(spread)}")
        return spread

    @property
    def look(self) -> StainLook:
        """Its numbers."""
        return StainLook(self.mean, self.spread)


class StainsEntry(Strict):
    """Stains of real slides, measured in their pixels."""

    id: CatalogId
    title: str = ""
    source: str = ""
    licence: LicenceTerms
    looks: tuple[NamedLook, ...] = Field(min_length=1)

    @field_validator("looks")
    @classmethod
    def _check_names(cls, looks: tuple[NamedLook, ...]) -> tuple[NamedLook, ...]:
        names = [each.name for each in looks]
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice: remove one")
        return looks

    def find_look(self, name: str) -> StainLook:
        """Returns the look of a slide.

        Raises:
            CatalogError: none of that name; names the nearest.
        """
        known = {each.name: each.look for each in self.looks}
        if name not in known:
            raise CatalogError(f"{self.id} has no stain {name!r}: {advise(name, tuple(known), 30)}")
        return known[name]

    def describe_terms(self) -> dict[str, Any]:
        """Returns the terms of the images that it was measured in, as plain data."""
        return self.licence.model_dump(mode="json")
