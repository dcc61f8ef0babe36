"""`Cells`: how a stream is read from the columns of a table, beside those of a condition kind."""

import math
from typing import Any

from pydantic import Field

from factory.catalog.entries import Strict
from factory.core.errors import InputError
from factory.core.text_rows import find_fault


class Cells(Strict):
    """Where a table has a stream; a stream adds what it needs to know besides."""

    column: str = Field(min_length=1, description="column of the table")

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)

    @property
    def marks(self) -> tuple[str, ...]:
        """What masks of the column may mark, by name."""
        return ()


def read_word(value: Any) -> str:
    """Returns text of a cell, or a number as text.

    Raises:
        InputError: empty, or neither.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else value
    if text is None or (isinstance(text, str) and not text.strip()):
        raise InputError("empty: write it, or drop the row")
    if not isinstance(text, str):
        raise InputError(f"want text, got {type(value).__name__}")
    fault = find_fault(text)
    if fault is not None:
        raise InputError(f"{fault}: write it anew, or drop the row")
    return text.strip()


def read_number(value: Any) -> float:
    """Returns a number of a cell; NaN where it is empty.

    Raises:
        InputError: no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"want a number, got {value!r}") from error
