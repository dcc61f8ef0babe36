"""`Family`: images that differ in one thing they were asked for, and in nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from factory.core.hashing import compute_digest
from factory.data.provenance import Provenance

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = "family"
"""Key of a row's provenance."""
LOOKS = ("stain", "domain")
"""What is varied that changes how an image is stained, and nothing else of it."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a request of a family varies; its members share base, `varied`, ordinal and seed.

    Attributes:
        base: condition key of what is varied.
        varied: what differs: a stream, an attribute of captions, or a value of a vector.
        value: of this member, as text.
    """

    base: str
    varied: str
    value: str

    @classmethod
    def read(cls, record: Provenance) -> Self | None:
        """Returns what a row recorded; None where it is of no family."""
        told = (record.model_extra or {}).get(RECORD)
        return None if told is None else cls(told["base"], told["varied"], told["value"])

    @property
    def seed_key(self) -> str:
        """What seeds follow from instead of the condition key, so that members share them."""
        return compute_digest(RECORD, [self.base, self.varied])[:16]

    def record(self) -> dict[str, Any]:
        """Returns what the provenance of a row holds of it."""
        return {RECORD: {"base": self.base, "varied": self.varied, "value": self.value}}

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns the columns that it adds to rows, with their Arrow types."""
        import pyarrow as pa

        return dict.fromkeys(("family_id", "varied", "value"), pa.string())

    def columns(self, ordinal: int) -> dict[str, str]:
        """Returns what a row shows of it: members have one `family_id`."""
        name = compute_digest(RECORD, [self.base, self.varied, ordinal])[:16]
        return {"family_id": name, "varied": self.varied, "value": self.value}
