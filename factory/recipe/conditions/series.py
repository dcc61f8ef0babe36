"""Series of requests: what one is, and what those of one class or of many conditions share."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from factory.data.records import Condition, Request


class SeriesInfo(Protocol):
    """What is known of a series without its inputs: identity, name, classes and count."""

    @property
    def key(self) -> str:
        """Identity, 16 hex characters: what the series enumerates, without its count."""
        ...

    @property
    def label(self) -> str:
        """What a person calls it, e.g. `tumor` or `captions he-basic`."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that its images may have; empty without classes."""
        ...

    @property
    def count(self) -> int:
        """Requests, i.e. accepted images asked for."""
        ...


class Series(SeriesInfo, Protocol):
    """Requests 0 .. count - 1 that grow only at their end.

    One class of a class block, the captions of a caption block, or one class of a reference block.
    `request_at` is a pure function of the index: raising `count`, or adding another series, changes
    no request that there was. A series is a dataclass: `pick` plans it with another count.
    """

    def request_at(self, index: int) -> Request:
        """Returns the request at `index` in [0, count)."""
        ...


class OneClass:
    """A series whose images are of one class, or of none.

    Attributes:
        class_name: the class, if there is one.
        origin: what its images come from, as its label tells; empty where a class says enough.
    """

    class_name: str | None
    origin: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The class, or that there is none, and what its images come from."""
        name = self.class_name or "images"
        return f"{name} {self.origin}" if self.origin else name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class, if there is one."""
        return () if self.class_name is None else (self.class_name,)


@dataclass(frozen=True)
class ManyConditions:
    """A series of conditions that are asked for in turn.

    Attributes:
        name: what its conditions are called, such as a folder.
        conditions: in order.
        count: requests.
        origin: what they are, as its label tells.
    """

    name: str
    conditions: tuple[Condition, ...]
    count: int
    origin: ClassVar[str]

    @property
    def label(self) -> str:
        """What the conditions are, and are called."""
        return f"{self.origin} {self.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the conditions."""
        names = (condition.class_name for condition in self.conditions)
        return tuple(sorted({name for name in names if name is not None}))


def find_shares(series: SeriesInfo) -> dict[str, dict[str, float]]:
    """Returns attribute -> value -> the share asked for, of a series that has `shares`."""
    return getattr(series, "shares", None) or {}


QUOTAS = ("max_share_per_shot", "max_share_per_group")


def find_quotas(series: object) -> dict[str, float]:
    """Returns the shares that one real image, and one patient, may give, of what bounds them."""
    found = {name: getattr(series, name, None) for name in QUOTAS}
    return {name: most for name, most in found.items() if most is not None}


def find_sizes(series: SeriesInfo) -> dict[str, int]:
    """Returns what is varied -> images of a whole family, of a series of families."""
    return getattr(series, "sizes", None) or {}


def find_bag_size(series: SeriesInfo) -> int | None:
    """Returns the patches of a slide, of a series of slides."""
    found: int | None = getattr(series, "bag_size", None)
    return found


def find_details(series: SeriesInfo) -> dict[str, Any]:
    """Returns `details`, lines that say more of a series than its label, where it has any."""
    details = tuple(getattr(series, "details", None) or ())
    return {"details": details} if details else {}
