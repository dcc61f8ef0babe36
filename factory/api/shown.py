"""What functions of the Python API return where plain data is not seen well in a notebook."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PICTURE = 900
"""px of the width that a picture of calibration has on the page."""


class Listing(tuple[T, ...], Generic[T]):
    """What is listed; a notebook shows it as a table.

    Args:
        found: what is listed.
        columns: head of each column, and what stands in it.
    """

    columns: Mapping[str, Callable[[T], Any]]

    def __new__(cls, found: Iterable[T], columns: Mapping[str, Callable[[T], Any]]) -> "Listing[T]":
        """Returns the listing."""
        made = super().__new__(cls, found)
        made.columns = columns
        return made

    def _repr_html_(self) -> str:
        """What a notebook shows: a row of each."""
        from factory.engine.notebook import write_table

        return write_table(
            tuple(self.columns), [[read(each) for read in self.columns.values()] for each in self]
        )


class Figures(dict[str, Any]):
    """Plain data, as its JSON file holds it; a notebook shows the figures as a table."""

    def _repr_html_(self) -> str:
        """What a notebook shows: every number and text, by its path."""
        from factory.engine.notebook import write_table

        return write_table(("figure", "value"), _flatten(self))


class Calibration(Figures):
    """Proposed thresholds with all that they rest on; a notebook shows the picture, too."""

    folder: Path = Path()

    def _repr_html_(self) -> str:
        """What a notebook shows: distributions, then each threshold now and as proposed."""
        from factory.engine.notebook import show_images, write_table

        rows = [
            (part["path"], _say(part["now"]), _say(part["proposed"]))
            for part in self["fields"]
            if part["shown"]
        ]
        picture = (self.folder / "calibration.png").read_bytes()
        return show_images([(picture, "")], PICTURE) + write_table(
            ("field", "now", "proposed"), rows
        )


class Tuned(Figures):
    """What a search of recipes found; a notebook shows the answer, and every trial."""

    def _repr_html_(self) -> str:
        """What a notebook shows: a row of each trial, the best first."""
        from factory.engine.notebook import write_table
        from factory.evaluate.tune.tables import tabulate_trials

        head, *rows = tabulate_trials(self)
        answer = write_table(("answer", "why"), [(self["answer"], self["why"])])
        return answer + write_table(tuple(head), rows)


def _flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted names and values; lists of anything but numbers and texts are left out."""
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _flatten(each, f"{above}{name}.")
        elif not isinstance(each, list | tuple):
            yield f"{above}{name}", _say(each)
        elif all(isinstance(part, str | int | float) for part in each):
            yield f"{above}{name}", ", ".join(map(_say, each))


def _say(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_say(each)}" for name, each in value.items())
    return "-" if value is None else str(value)
