"""Captions of a class in a language model's words, wherever those keep what the rule says."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from factory.catalog.captions.faithful import find_unfaithful
from factory.catalog.entries import Strict
from factory.catalog.terms import TermsEntry
from factory.core.hashing import compute_digest, derive_seed
from factory.data.records import Condition, Request
from factory.data.streams import Caption
from factory.models.text_writer import Writer, WriterSettings
from factory.recipe.conditions.grids import ExpandedSeries

WORDING, WRITTEN, RULE = "wording", "written", "rule"
"""What rows tell of a caption besides its attributes: whether it stands in the writer's words."""
TERMS = "pathology"
"""Catalog of the synonyms by which a text may say a value."""


class Expansion(Strict):
    """A grid that says of each class what goes with it, and what rewords that."""

    captions: str = Field(min_length=1, description="caption grid with a class_attribute")
    writer: WriterSettings | None = Field(None, description="language model that rewords captions")


@dataclass(frozen=True)
class WrittenSeries(ExpandedSeries):
    """As `ExpandedSeries`, each caption reworded; the grid's values stay what is known of it.

    A text that drops, denies or adds a value is passed over for the rule's own: the row says which.
    """

    writer: Writer = field(kw_only=True)
    terms: TermsEntry | None = field(default=None, kw_only=True)
    licence: str | None = field(default=None, kw_only=True)

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: the grid's content, and what its texts follow from."""
        content: dict[str, Any] = {
            "kind": "caption",
            "grid": self.grid.describe(),
            "writer": self.writer.describe(),
            "terms": None if self.terms is None else self.terms.describe(),
        }
        return compute_digest("series", content)[:16]

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Shares of what its captions say, and that all of them be reworded."""
        return {**super().shares, WORDING: {WRITTEN: 1.0, RULE: 0.0}}

    @property
    def details(self) -> tuple[str, ...]:
        """What people are told of it beside its label and count."""
        made = self.writer.describe()
        how = "greedy" if made["temperature"] is None else f"temperature {made['temperature']:g}"
        return (
            f"captions reworded by {made['model']}@{made['revision']} ({how}, terms: "
            f"{self.licence or 'not stated'}); a text that drops, denies or adds an attribute is "
            f"passed over for the rule's own (wording: {RULE})",
        )

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request, in the writer's words where they hold.

        Raises:
            InputError: the writer cannot be loaded.
        """
        found = super().request_at(index)
        caption = found.condition.get(Caption)
        assert caption is not None
        seed = derive_seed(self.seed, "writer", self.class_name, index)
        text = self.writer.write(caption.text, seed)
        fault = find_unfaithful(self.grid, dict(caption.attributes), text, self.terms)
        made = self.writer.describe()
        told = {
            **{
                name: made[name]
                for name in ("model", "revision", "weights_sha256", "reading_sha256")
            },
            "temperature": made["temperature"],
            "licence": self.licence,
            "rule": caption.text,
            "passed_over": fault,
        }
        attributes = (*caption.attributes, (WORDING, WRITTEN if fault is None else RULE))
        kept = Caption(text if fault is None else caption.text, attributes, told)
        return replace(found, condition=Condition(found.condition.class_name, None, kept))
