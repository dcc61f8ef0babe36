"""Class conditions: so many images of each named class."""

from dataclasses import dataclass

from factory.core.hashing import compute_digest
from factory.data.records import Condition, Request


@dataclass(frozen=True, slots=True)
class ClassSeries:
    """All images of one class."""

    class_name: str
    count: int

    @property
    def key(self) -> str:
        """Identity of the series."""
        return compute_digest("series", {"kind": "class", "class_name": self.class_name})[:16]

    @property
    def label(self) -> str:
        """The class."""
        return self.class_name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class."""
        return (self.class_name,)

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th image of the class."""
        return Request(self.key, index, Condition(class_name=self.class_name), index)
