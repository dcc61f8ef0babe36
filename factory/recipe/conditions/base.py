"""What a series is: the requests of one part of a recipe, addressed by index."""

from typing import Protocol

from factory.data.records import Request


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
    no request that there was.
    """

    def request_at(self, index: int) -> Request:
        """Returns the request at `index` in [0, count)."""
        ...
