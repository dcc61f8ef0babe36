"""What a verification finds: failures that name file, row and field, and what was not checked."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from factory.engine.regenerate import Rebuilt

LISTED = 50
"""Failures of one kind that are listed; all are counted."""
LEFT_LISTED = 3
"""Reasons why a check could not be made that are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that is not as it was recorded.

    Attributes:
        check: which check, e.g. `image hash`.
        file: name below the data set.
        message: what was found, and what was expected.
        row: position and sample id, where it is about a row.
        field: column, or field of a JSON file.
    """

    check: str
    file: str
    message: str
    row: str | None = None
    field: str | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return ": ".join(part for part in (f"{self.file}{row}", self.field, self.message) if part)


@dataclass(slots=True)
class Report:
    """What was checked, how often, and what was found.

    Attributes:
        checked: check -> how often.
        unchecked: check -> how often it was asked for and could not be done: neither sound nor not.
        failed: check -> failures.
        failures: some of them.
        notes: what could not be checked.
        rebuilt: rows that were made again.
    """

    checked: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rebuilt: list[Rebuilt] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def leave(self, check: str, reason: str, count: int = 1) -> None:
        """Books what was asked for and cannot be checked from what is here."""
        self.unchecked[check] += count
        if sum(note.startswith(f"{check}: ") for note in self.notes) < LEFT_LISTED:
            self.note(f"{check}: {reason}")

    def note(self, text: str) -> None:
        """Says, once, what could not be checked."""
        if text not in self.notes:
            self.notes.append(text)

    def fail(
        self, check: str, file: str, message: str, row: str | None = None, field: str | None = None
    ) -> None:
        """Books a failure."""
        self.failed[check] += 1
        if self.failed[check] <= LISTED:
            self.failures.append(Failure(check, file, message, row, field))

    def expect(
        self,
        check: str,
        file: str,
        found: Any,
        recorded: Any,
        row: str | None = None,
        field: str | None = None,
    ) -> bool:
        """Books one comparison, and a failure where the two differ; returns whether they agree."""
        self.checked[check] += 1
        if found == recorded:
            return True
        self.fail(check, file, f"{_shorten(found)}, but {_shorten(recorded)} follows", row, field)
        return False

    def to_json(self) -> dict[str, Any]:
        """Returns everything as plain data."""
        return {
            "sound": self.is_sound,
            "checked": dict(self.checked),
            "unchecked": dict(self.unchecked),
            "failed": dict(self.failed),
            "failures": [
                {
                    "check": each.check,
                    "file": each.file,
                    "row": each.row,
                    "field": each.field,
                    "message": each.message,
                }
                for each in self.failures
            ],
            "not_checked": self.notes,
            "regenerated": [each.to_json() for each in self.rebuilt],
        }


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
